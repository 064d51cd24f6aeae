//! What is studied: records, held-out questions, and which of them are about the same.
//!
//! Invariant: every record and question has a prompt and a completion; reading a file takes the first records that fit
//! the limits, so that a file and limits name a dataset.

use super::StudyError;
use super::bootstrap::Draws;

/// Something to learn, or to be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// What is given.
    pub prompt: String,
    /// What is learned, or right.
    pub completion: String,
    /// What it is about; `None` where that is nothing that is asked for.
    pub topic: Option<u32>,
}

/// Records and questions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    /// Its name in tables.
    pub name: String,
    /// What contributors have.
    pub records: Vec<Item>,
    /// What is asked afterwards.
    pub queries: Vec<Item>,
}

/// How much of a dataset is studied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Records at most.
    pub records: usize,
    /// Questions at most.
    pub queries: usize,
}

/// Characters of a record from a file at most; longer ones are left out, since a training must take seconds.
const MAX_CHARACTERS: usize = 320;
/// Intents of BANKING77 that a study takes: as in the pilot.
const INTENTS: usize = 32;

impl Dataset {
    /// Grade-school mathematics (`question`, `answer` on each line, as openai/grade-school-math writes it). A record's topic is the
    /// last operation of its solution: plus, minus, times or by.
    ///
    /// # Errors
    /// When a line is not such an object, or nothing is left.
    pub fn gsm8k(train: &str, test: &str, size: Size) -> Result<Self, StudyError> {
        let read = |text: &str, most: usize| -> Result<Vec<Item>, StudyError> {
            let items = text.lines().filter(|line| !line.trim().is_empty()).map(problem);
            items.filter(|item| item.as_ref().map_or(true, is_short)).take(most).collect()
        };
        Self::checked("GSM8K", read(train, size.records)?, read(test, size.queries)?)
    }

    /// Bank customers' questions with their intent (`text,category`, as PolyAI writes it): the first intents of a drawn
    /// order, and of each about as many records.
    ///
    /// # Errors
    /// When a row has no two fields, or nothing is left.
    pub fn banking77(train: &str, test: &str, size: Size) -> Result<Self, StudyError> {
        let (train, test) = (intents(train)?, intents(test)?);
        let mut names: Vec<&str> = train.iter().map(|(_, intent)| intent.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        Draws::new(0, 0).shuffle(&mut names);
        names.truncate(INTENTS);
        let take = |rows: &[(String, String)], most: usize| -> Vec<Item> {
            let each = most.div_ceil(names.len().max(1));
            let of = |(topic, name): (u32, &&str)| {
                let own = rows.iter().filter(|(_, intent)| intent == name).map(move |(text, intent)| Item {
                    prompt: format!("{text} >"),
                    completion: format!(" {}", intent.replace('_', " ")),
                    topic: Some(topic),
                });
                own.filter(is_short).take(each).collect::<Vec<_>>()
            };
            let mut items: Vec<Item> = (0..).zip(&names).flat_map(of).collect();
            items.truncate(most);
            items
        };
        let (records, queries) = (take(&train, size.records), take(&test, size.queries));
        Self::checked("BANKING77", records, queries)
    }

    fn checked(name: &str, records: Vec<Item>, queries: Vec<Item>) -> Result<Self, StudyError> {
        match records.is_empty() || queries.is_empty() {
            true => Err(StudyError::Dataset(format!("{name}: no record or no question is left"))),
            false => Ok(Self { name: name.into(), records, queries }),
        }
    }
}

fn is_short(item: &Item) -> bool {
    item.prompt.len() + item.completion.len() <= MAX_CHARACTERS
}

fn problem(line: &str) -> Result<Item, StudyError> {
    let value: serde_json::Value =
        serde_json::from_str(line).map_err(|error| StudyError::Dataset(format!("GSM8K: {error}")))?;
    let field = |name: &str| {
        let text = value.get(name).and_then(serde_json::Value::as_str);
        text.map(str::trim).ok_or_else(|| StudyError::Dataset(format!("GSM8K: a line without {name:?}")))
    };
    let (question, answer) = (field("question")?, field("answer")?);
    let operation = answer.rsplit_once("<<").and_then(|(_, last)| last.split("=").next());
    let topic = operation.and_then(|operation| {
        operation.bytes().rev().find_map(|byte| match byte {
            b'+' => Some(0),
            b'-' => Some(1),
            b'*' => Some(2),
            b'/' => Some(3),
            _ => None,
        })
    });
    Ok(Item { prompt: question.into(), completion: format!(" {}", without_marks(answer)), topic })
}

/// The solution without what lies between `<<` and `>>`, which repeats it for a calculator.
fn without_marks(answer: &str) -> String {
    let mut kept = String::new();
    for (at, part) in answer.split("<<").enumerate() {
        kept.push_str(if at == 0 { part } else { part.split_once(">>").map_or(part, |(_, rest)| rest) });
    }
    kept.replace('\n', " ")
}

fn intents(text: &str) -> Result<Vec<(String, String)>, StudyError> {
    let refused = |error: csv::Error| StudyError::Dataset(format!("BANKING77: {error}"));
    let mut rows = Vec::new();
    for row in csv::Reader::from_reader(text.as_bytes()).records() {
        let row = row.map_err(refused)?;
        let (Some(text), Some(intent)) = (row.get(0), row.get(1)) else {
            return Err(StudyError::Dataset("BANKING77: a row without two fields".into()));
        };
        rows.push((text.trim().to_owned(), intent.trim().to_owned()));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::{Dataset, Size};

    const SIZE: Size = Size { records: 3, queries: 1 };

    #[test]
    fn problems_are_read_without_the_calculators_marks() {
        let line = r#"{"question": "Two and two?", "answer": "It is 2+2=<<2+2=4>>4.\n#### 4"}"#;
        let found = Dataset::gsm8k(&format!("{line}\n{line}\n"), line, SIZE).unwrap();
        assert_eq!((found.records.len(), found.queries.len()), (2, 1));
        assert_eq!(found.records[0].completion, " It is 2+2=4. #### 4");
        assert_eq!(found.records[0].topic, Some(0));
        assert!(Dataset::gsm8k("{}", line, SIZE).is_err());
        assert!(Dataset::gsm8k("", line, SIZE).is_err());
    }

    #[test]
    fn intents_are_read_with_their_quotes() {
        let text = "text,category\n\"Lost, again?\",lost_card\nWhere is it?,card_arrival\n";
        let found = Dataset::banking77(text, text, SIZE).unwrap();
        let lost = found.records.iter().find(|record| record.completion == " lost card").unwrap();
        assert_eq!(lost.prompt, "Lost, again? >");
        assert_ne!(found.records[0].topic, found.records[1].topic);
        assert!(Dataset::banking77("text,category\nonly one\n", text, SIZE).is_err());
    }
}
