//! `tributary data repeats`: records that say again what others said before.

use serde_json::Value;

use super::super::failure::Failure;
use super::super::output::{Context, Output};
use super::super::pick::DATANET;
use super::super::table::Table;
use super::super::text;

pub(super) async fn run(context: &Context, datanet: &str) -> Result<Output, Failure> {
    let known = context.client.get("/api/datanets").await?;
    let id = text::field(&DATANET.find(&known, datanet)?["id"]);
    Ok(show(context.client.get(&format!("/api/datanets/{id}/repeats")).await?))
}

fn show(found: Value) -> Output {
    let repeats = text::rows(&found["repeats"]);
    let trained = text::counted(text::number(&found["trained"]), "record");
    let mut table = Table::wrapping(&["BY", "SHARES", "CREDITED", "RECORD"]);
    for repeat in repeats {
        table.row([
            text::short(&repeat["account"]),
            format!("{} %", text::number(&repeat["similarity_permille"]) / 10),
            text::short(&repeat["credited"]),
            text::line(&said(&repeat["record"])),
        ]);
    }
    let ids = repeats.iter().map(|repeat| text::field(&repeat["record"]["id"])).collect();
    let count = text::number(&found["count"]);
    let hidden = count.saturating_sub(u64::try_from(repeats.len()).unwrap_or(u64::MAX));
    let rendered = table.render();
    let output = Output::new(found.clone(), ids, rendered);
    match (count, hidden) {
        (0, _) => output.note(format!("no record repeats another one: {trained} can be trained")),
        (_, 0) => output.note(format!("{trained} can be trained beside these, which are neither trained nor credited")),
        (_, hidden) => output.note(format!("… and {} more; {trained} can be trained", text::grouped(hidden))),
    }
}

fn said(record: &Value) -> String {
    format!("{} {}", text::field(&record["prompt"]), text::field(&record["completion"])).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::show;

    #[test]
    fn each_repeat_names_who_is_credited_instead() {
        let (copier, first) = ("c".repeat(64), "f".repeat(64));
        let found = json!({"trained": 1200, "count": 3, "repeats": [
            {"record": {"id": "1", "prompt": "Who built it?\n", "completion": " Ada"}, "account": copier, "credited": first,
             "similarity_permille": 937},
        ]});
        let output = show(found);
        for part in ["cccccccc", "ffffffff", "93 %", "Who built it?"] {
            assert!(output.text.contains(part), "{}", output.text);
        }
        assert!(output.notes[0].starts_with("… and 2 more; 1,200 records"), "{:?}", output.notes);
    }

    #[test]
    fn none_is_said() {
        let output = show(json!({"trained": 1, "count": 0, "repeats": []}));
        assert!(output.text.is_empty());
        assert_eq!(output.notes, ["no record repeats another one: 1 record can be trained"]);
    }
}
