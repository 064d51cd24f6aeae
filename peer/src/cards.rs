//! The cards of datanets: the automerge documents behind the opaque changes that the node spreads.
//!
//! Invariant: the node's journal is the only place where a card is kept; a document here is a view of the changes that
//! the node has accepted, caught up before every use, and nothing is shown that is not durable. One thing at a time
//! happens to cards, so that an edit builds on all there is and no two edits take one place.

use std::collections::{BTreeMap, VecDeque};

use tokio::sync::{Mutex, Semaphore};
use tributary_protocol::card::CardChange;
use tributary_protocol::envelope::Signed;
use tributary_protocol::id::{AccountId, DatanetId, NodeId};
use tributary_protocol::limits::DATANETS_MAX;
use tributary_protocol::node::{CardFinding, Command, Input, Node};
use tributary_storage::card::{Applied, Card, CardDocument, CardError, Writer};

use crate::handle::{NodeHandle, Stopped};

/// Documents kept open; any other is made again from its changes when it is used.
const OPEN_MAX: usize = 16;
/// Checks that wait for each other; what comes beyond is dropped, and the node asks for it again.
const CHECKS_MAX: usize = 8;

/// Why a card cannot be shown or edited.
#[derive(Debug, thiserror::Error)]
pub enum CardsError {
    /// No such datanet.
    #[error("datanet {0} is not known here")]
    Unknown(DatanetId),
    /// The datanet's policy does not let this account edit its card.
    #[error("this account may not edit the card of datanet {0}")]
    NotEditor(DatanetId),
    /// The account's share of the card is used up.
    #[error("this account has written as much on the card of datanet {0} as it may")]
    Full(DatanetId),
    /// The edit breaks a bound.
    #[error(transparent)]
    Card(#[from] CardError),
    /// The node has ended.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// The work was cut off.
    #[error("the card could not be worked on: {0}")]
    Interrupted(String),
}

/// A document and how many of the node's changes are in it.
struct Open {
    datanet: DatanetId,
    changes: usize,
    document: CardDocument,
}

/// What the node knows of a card beyond a document.
struct Known {
    writer: Writer,
    is_editor: bool,
    editors: usize,
    changes: usize,
    fresh: Vec<Signed<CardChange>>,
}

/// All cards of a node.
pub struct Cards {
    node: NodeHandle,
    /// The last used is the last.
    open: Mutex<VecDeque<Open>>,
    titles: Mutex<BTreeMap<DatanetId, (usize, String)>>,
    checks: Semaphore,
}

impl Cards {
    /// The cards of this node.
    #[must_use]
    pub fn new(node: NodeHandle) -> Self {
        Self { node, open: Mutex::default(), titles: Mutex::default(), checks: Semaphore::new(CHECKS_MAX) }
    }

    /// Checks changes that `from` sent; what was found reaches the node as [`Input::CardChecked`].
    pub async fn check(&self, from: NodeId, datanet: DatanetId, changes: Vec<Signed<CardChange>>) {
        let Ok(_turn) = self.checks.try_acquire() else { return };
        let mut open = self.open.lock().await;
        let Ok((view, _)) = self.catch_up(&mut open, datanet).await else { return };
        let document = view.document.clone();
        let judged = tokio::task::spawn_blocking(move || judge(document, changes)).await;
        open.push_back(view);
        if let Ok(checked) = judged {
            let _ = self.node.input(Input::CardChecked { from, datanet, checked }).await;
        }
    }

    /// A datanet's card.
    ///
    /// # Errors
    /// When the datanet is not known here.
    pub async fn show(&self, datanet: DatanetId) -> Result<Card, CardsError> {
        let mut open = self.open.lock().await;
        let (view, _) = self.catch_up(&mut open, datanet).await?;
        let card = view.document.card();
        open.push_back(view);
        Ok(card?)
    }

    /// The title on a datanet's card of so many changes; empty without any.
    ///
    /// # Errors
    /// When the datanet is not known here.
    pub async fn title(&self, datanet: DatanetId, changes: usize) -> Result<String, CardsError> {
        if changes == 0 {
            return Ok(String::new());
        }
        let mut titles = self.titles.lock().await;
        match titles.get(&datanet) {
            Some((known, title)) if *known == changes => Ok(title.clone()),
            _ => {
                let title = self.show(datanet).await?.title;
                if titles.len() >= DATANETS_MAX {
                    titles.clear();
                }
                titles.insert(datanet, (changes, title.clone()));
                Ok(title)
            }
        }
    }

    /// Changes a card; says how it is then, and whether that is another than before.
    ///
    /// # Errors
    /// When the datanet is not known, the account may not edit it, or a bound is broken.
    pub async fn edit(
        &self,
        datanet: DatanetId,
        edit: impl FnOnce(&mut Card) + Send + 'static,
    ) -> Result<(Card, bool), CardsError> {
        let mut open = self.open.lock().await;
        let (view, known) = self.catch_up(&mut open, datanet).await?;
        if !known.is_editor {
            open.push_back(view);
            return Err(CardsError::NotEditor(datanet));
        }
        // The edit is made on a copy: the view changes only by what the node has accepted.
        let (mut copy, writer) = (view.document.clone(), known.writer);
        open.push_back(view);
        let made = tokio::task::spawn_blocking(move || {
            let change = copy.edit(&writer, edit)?;
            Ok::<_, CardError>((change, copy.card()?))
        });
        let (change, card) = made.await.map_err(|error| CardsError::Interrupted(error.to_string()))??;
        let Some(change) = change else { return Ok((card, false)) };
        self.node.command(Command::EditCard { datanet, change }).await?;
        let (view, after) = self.catch_up(&mut open, datanet).await?;
        open.push_back(view);
        if after.changes == known.changes {
            return Err(CardsError::Full(datanet));
        }
        Ok((card, true))
    }

    /// Takes the document out of `open`, or makes it, with every change that the node has accepted.
    async fn catch_up(&self, open: &mut VecDeque<Open>, datanet: DatanetId) -> Result<(Open, Known), CardsError> {
        let place = open.iter().position(|view| view.datanet == datanet);
        let view = place.and_then(|place| open.remove(place));
        if open.len() >= OPEN_MAX {
            open.pop_front();
        }
        let have = view.as_ref().map_or(0, |view| view.changes);
        let known = self.node.view(move |node| known(node, &datanet, have)).await?;
        let mut known = known.ok_or(CardsError::Unknown(datanet))?;
        let document = view.map_or_else(|| CardDocument::new(known.editors), |view| view.document);
        let fresh = std::mem::take(&mut known.fresh);
        let extended = tokio::task::spawn_blocking(move || extended(document, &fresh)).await;
        let document = extended.map_err(|error| CardsError::Interrupted(error.to_string()))??;
        Ok((Open { datanet, changes: known.changes, document }, known))
    }
}

fn known(node: &Node, datanet: &DatanetId, have: usize) -> Option<Known> {
    let logs = node.card_logs(datanet)?;
    Some(Known {
        writer: Writer { account: node.account(), node: node.id() },
        is_editor: logs.is_editor(&node.account()),
        editors: logs.editor_count(),
        changes: logs.changes().len(),
        fresh: logs.changes().get(have..).unwrap_or_default().to_vec(),
    })
}

fn extended(mut document: CardDocument, fresh: &[Signed<CardChange>]) -> Result<CardDocument, CardError> {
    if !fresh.is_empty() {
        document.extend(fresh.iter().map(|entry| (&entry.account, &entry.body.change[..])))?;
    }
    Ok(document)
}

/// Applies changes one after the other to a document that is thrown away.
fn judge(mut document: CardDocument, changes: Vec<Signed<CardChange>>) -> Vec<(Signed<CardChange>, CardFinding)> {
    let mut checked = Vec::with_capacity(changes.len());
    let mut stuck: Vec<AccountId> = Vec::new();
    for entry in changes {
        // What an editor wrote after a change that is not taken has no place either.
        if stuck.contains(&entry.account) {
            continue;
        }
        let finding = match document.apply(&entry.account, &entry.body.change) {
            Ok(Applied::New) => CardFinding::Good,
            // It was taken from another peer meanwhile, or its editor repeats itself; in neither case it is the sender's
            // fault, and one change never counts twice.
            Ok(Applied::Known) | Err(CardError::Missing { .. }) => CardFinding::Early,
            Err(error) => CardFinding::Broken(error.to_string()),
        };
        if finding != CardFinding::Good {
            stuck.push(entry.account);
        }
        checked.push((entry, finding));
    }
    checked
}
