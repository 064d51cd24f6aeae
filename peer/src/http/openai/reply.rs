//! What clients get: objects and chunks, with the receipt and everybody's share beside what they know.
//!
//! Invariant: token counts and shares are the receipt's own.

use serde::Deserialize;
use serde_json::{Value, json};
use tributary_protocol::attribution::WHOLE;
use tributary_protocol::logprobs::TokenReport;

use super::logprobs::{Logprobs, of_text};

/// Which of the two kinds of answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// `/v1/completions`.
    Completion,
    /// `/v1/chat/completions`.
    Chat,
}

/// What all parts of one answer have in common.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) shape: Shape,
    /// The question's key.
    pub(super) id: String,
    pub(super) model: String,
    /// Seconds since 1970.
    pub(super) created_s: u64,
    pub(super) max_tokens: u32,
    /// Where receipts can be read.
    pub(super) api: String,
}

/// One model of the list.
pub(super) fn model(id: &str, release: &Value) -> Value {
    json!({
        "id": id,
        "object": "model",
        "created": 0,
        "owned_by": release["builder"],
        "tributary": {
            "adapter": release["adapter"],
            "base": release["base"],
            "datanet": release["datanet"],
            "head": release["head"],
            "answer_fee": release["answer_fee"],
            "contributors": release["contributors"].as_array().map_or(0, Vec::len),
        },
    })
}

impl Frame {
    fn object(&self, kind: &str, choice: Value) -> Value {
        let prefix = if self.shape == Shape::Chat { "chatcmpl" } else { "cmpl" };
        json!({
            "id": format!("{prefix}-{}", self.id),
            "object": kind,
            "created": self.created_s,
            "model": self.model,
            "choices": [choice],
        })
    }

    fn chunk(&self, choice: Value) -> Value {
        self.object(if self.shape == Shape::Chat { "chat.completion.chunk" } else { "text_completion" }, choice)
    }

    fn finish(&self, done: &Value) -> &'static str {
        let is_full = done["answer_tokens"].as_u64() == Some(u64::from(self.max_tokens));
        if is_full { "length" } else { "stop" }
    }

    /// The whole answer at once.
    pub(super) fn whole(&self, done: &Value) -> Value {
        let text = done["text"].as_str().unwrap_or_default();
        let finish = self.finish(done);
        let logprobs = Logprobs::new(self.shape).of(text, of_text(&tokens(done), text));
        let mut whole = match self.shape {
            Shape::Completion => {
                let choice = json!({"index": 0, "text": text, "logprobs": logprobs, "finish_reason": finish});
                self.object("text_completion", choice)
            }
            Shape::Chat => {
                let message = json!({
                    "role": "assistant", "content": text, "refusal": null, "annotations": self.annotations(done),
                });
                let choice = json!({"index": 0, "message": message, "logprobs": logprobs, "finish_reason": finish});
                self.object("chat.completion", choice)
            }
        };
        whole["usage"] = usage(done);
        whole["tributary"] = receipt(done);
        whole
    }

    /// The chunk before all text.
    pub(super) fn opening(&self) -> Option<Value> {
        let delta = json!({"role": "assistant", "content": ""});
        (self.shape == Shape::Chat).then(|| self.chunk(json!({"index": 0, "delta": delta, "finish_reason": null})))
    }

    /// More text.
    pub(super) fn piece(&self, text: &str, logprobs: &Value) -> Value {
        self.chunk(match self.shape {
            Shape::Completion => json!({"index": 0, "text": text, "logprobs": logprobs, "finish_reason": null}),
            Shape::Chat => json!({"index": 0, "delta": {"content": text}, "logprobs": logprobs, "finish_reason": null}),
        })
    }

    /// The chunk after all text.
    pub(super) fn last(&self, done: &Value) -> Value {
        let finish = self.finish(done);
        let mut last = self.chunk(match self.shape {
            Shape::Completion => json!({"index": 0, "text": "", "logprobs": null, "finish_reason": finish}),
            Shape::Chat => {
                let delta = json!({"annotations": self.annotations(done)});
                json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish})
            }
        });
        last["tributary"] = receipt(done);
        last
    }

    /// The numbers of tokens, in a chunk of their own.
    pub(super) fn usage_chunk(&self, done: &Value) -> Value {
        let mut chunk = self.chunk(Value::Null);
        chunk["choices"] = json!([]);
        chunk["usage"] = usage(done);
        chunk
    }

    /// One citation for each contributor, largest share first.
    fn annotations(&self, done: &Value) -> Vec<Value> {
        let end = done["text"].as_str().map_or(0, |text| text.chars().count());
        let url = format!("{}/api/receipts/{}", self.api, done["receipt"].as_str().unwrap_or_default());
        let mut shares: Vec<&Value> = done["shares"].as_array().into_iter().flatten().collect();
        shares.sort_by_key(|share| std::cmp::Reverse(share["weight"].as_u64()));
        shares.into_iter().map(|share| citation(share, end, &url)).collect()
    }
}

/// The answer's tokens, where their probabilities were asked for.
pub(super) fn tokens(done: &Value) -> Vec<TokenReport> {
    done.get("tokens").and_then(|tokens| Vec::deserialize(tokens).ok()).unwrap_or_default()
}

fn citation(share: &Value, end: usize, url: &str) -> Value {
    let weight = share["weight"].as_u64().unwrap_or(0);
    let whole = u64::from(WHOLE);
    let account: String = share["account"].as_str().unwrap_or_default().chars().take(10).collect();
    let title = format!("contributor {account}: {}.{} %", weight * 100 / whole, weight * 1_000 / whole % 10);
    json!({"type": "url_citation", "url_citation": {"start_index": 0, "end_index": end, "title": title, "url": url}})
}

fn usage(done: &Value) -> Value {
    let count = |name: &str| done[name].as_u64().unwrap_or(0);
    let (prompt, answer) = (count("prompt_tokens"), count("answer_tokens"));
    json!({"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer})
}

fn receipt(done: &Value) -> Value {
    json!({
        "receipt": done["receipt"],
        "worker": done["worker"],
        "price": done["price"],
        "shares": done["shares"],
        "commons": done["commons"],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_names_who_made_it_possible() {
        let shares =
            json!([{"account": "aa".repeat(32), "weight": 12_345}, {"account": "bb".repeat(32), "weight": 900_000}]);
        let done = json!({
            "text": " Jarelle", "receipt": "ef", "shares": shares, "commons": 87_655, "prompt_tokens": 8, "answer_tokens": 3,
        });
        let (model, api) = ("m".into(), "http://127.0.0.1:9".into());
        let frame = Frame { shape: Shape::Chat, id: "k".into(), model, created_s: 7, max_tokens: 3, api };
        let whole = frame.whole(&done);
        let choice = &whole["choices"][0];
        assert_eq!(choice["message"]["content"], " Jarelle");
        assert_eq!(choice["finish_reason"], "length");
        let citations = choice["message"]["annotations"].as_array().unwrap();
        assert_eq!(citations[0]["url_citation"]["title"], "contributor bbbbbbbbbb: 90.0 %");
        assert_eq!(citations[1]["url_citation"]["url"], "http://127.0.0.1:9/api/receipts/ef");
        assert_eq!(whole["usage"]["total_tokens"], 11);
        assert_eq!(whole["tributary"]["commons"], 87_655);
    }
}
