//! Cards: what stands for the documents that a driver keeps.
//!
//! Invariant: a change says, as its only content, how far its author knew the card; it is good only on top of that, as
//! a change of a real document is.

use tributary_protocol::card::{CardChange, CardHead};
use tributary_protocol::envelope::Signed;
use tributary_protocol::id::{AccountId, DatanetId, NodeId};
use tributary_protocol::limits::CARD_CHANGE_MAX_BYTES;
use tributary_protocol::node::{CardFinding, Command, Input, Node};
use tributary_protocol::wire;

use super::World;

/// Changes that each contributor makes to the card of his datanet.
pub(super) const CHANGES_EACH: u64 = 3;

impl World {
    /// Writes on the card on top of what this machine knows, until it has written enough.
    pub(super) fn decide_card(&mut self, host: usize, datanet: DatanetId) {
        let machine = &self.hosts[host];
        let Some(logs) = machine.node.as_ref().and_then(|node| node.card_logs(&datanet)) else { return };
        if logs.next_place(&machine.account).0 < CHANGES_EACH {
            let change = wire::encode(&logs.head());
            self.command(host, Command::EditCard { datanet, change });
        }
    }

    pub(super) fn check_card(
        &mut self,
        host: usize,
        from: NodeId,
        datanet: DatanetId,
        changes: Vec<Signed<CardChange>>,
    ) {
        let Some(node) = self.hosts[host].node.as_ref() else { return };
        let mut ahead: Vec<(AccountId, u64)> = Vec::new();
        let mut checked = Vec::with_capacity(changes.len());
        for entry in changes {
            let finding = judge(node, &ahead, &entry.body);
            if finding == CardFinding::Good {
                ahead.push((entry.account, entry.body.sequence + 1));
            }
            checked.push((entry, finding));
        }
        self.schedule_local(host, 3, Input::CardChecked { from, datanet, checked });
    }
}

fn judge(node: &Node, ahead: &[(AccountId, u64)], change: &CardChange) -> CardFinding {
    let Ok(built_on) = wire::decode::<CardHead>(&change.change, CARD_CHANGE_MAX_BYTES) else {
        return CardFinding::Broken("not a change".into());
    };
    let known = |editor: &AccountId| {
        let here = node.card_logs(&change.datanet).map_or(0, |logs| logs.next_place(editor).0);
        ahead.iter().filter(|(account, _)| account == editor).map(|(_, length)| *length).fold(here, u64::max)
    };
    let is_early = built_on.logs.iter().any(|log| known(&log.contributor) < log.length);
    if is_early { CardFinding::Early } else { CardFinding::Good }
}
