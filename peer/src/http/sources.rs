//! What an answer with retrieved records came from, as the API shows it.

use serde_json::{Value, json};
use tributary_protocol::attribution::WHOLE;
use tributary_protocol::id::Hash;
use tributary_protocol::node::Node;
use tributary_protocol::retrieval::{Passage, sources};
use tributary_protocol::transcript::Transcript;

/// The records that stood before a question and how much of the answer each explains beside the adapter; null where none
/// were wanted, or the answer's transcript is not kept any more.
pub(super) fn show(node: &Node, key: &Hash) -> Value {
    let shown = || {
        let audit = node.audit_of(key).filter(|audit| audit.request.body.retrieve > 0)?;
        let release = &node.release_of(&audit.request.body.adapter)?.body;
        let context = Transcript::from_bytes(&audit.transcript).ok()?.context;
        let contributors: Vec<u32> = context.passages.iter().map(|passage| passage.contributor).collect();
        let (adapter, weights) = match context.split() {
            Some(split) => sources(&split, &contributors),
            None => (WHOLE, Vec::new()),
        };
        let record = |(passage, weight): (&Passage, &u32)| {
            let contributor = usize::try_from(passage.contributor).ok().and_then(|at| release.contributors.get(at));
            json!({
                "record": passage.record,
                "contributor": contributor.map(|contributor| contributor.account),
                "weight": weight,
                "text": passage.text(),
            })
        };
        let records: Vec<Value> = context.passages.iter().zip(&weights).map(record).collect();
        let nobody = WHOLE - adapter - weights.iter().sum::<u32>();
        Some(json!({"wanted": audit.request.body.retrieve, "adapter": adapter, "records": records, "nobody": nobody}))
    };
    shown().unwrap_or(Value::Null)
}
