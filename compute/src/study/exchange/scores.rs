//! Scores that other programs gave records for questions, or why they gave none: a safetensors file for each method.
//!
//! Invariant: a file is measured before it is read, and nothing of it is used before its shape is the run's and every number is
//! finite; words of others are cut to a length and stand on one line.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::Dtype;

use crate::study::Matrix;

/// The longest file read: a million records with sixty-four questions.
const MAX_BYTES: u64 = 256 << 20;
/// Characters of a method's name, and of the reason why there are no scores.
const MAX_NAME: usize = 80;
const MAX_REASON: usize = 300;
const FORMAT: &str = "tributary-attribution-scores-1";

/// Why scores can't be taken.
#[derive(Debug, thiserror::Error)]
pub enum ScoresError {
    /// The file can't be read.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is longer than any that is read.
    #[error("{}: more than {MAX_BYTES} bytes", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// It is no file of scores.
    #[error("{}: {what}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The scores are not of as many records and questions as the run has.
    #[error("{method}: scores of {got:?} records and questions, expected {expected:?}")]
    Shape {
        /// Whose they are.
        method: String,
        /// How many there are.
        got: [usize; 2],
        /// How many the run has.
        expected: [usize; 2],
    },
}

/// What a method takes beside scores.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// Seconds before the first question.
    pub build_seconds: f64,
    /// Seconds of all questions.
    pub query_seconds: f64,
    /// Bytes that are kept for questions to come, divided by the contributors.
    pub bytes_per_contributor: f64,
}

/// What another program says of one method.
#[derive(Debug, Clone, PartialEq)]
pub struct Foreign {
    /// Identity of the run.
    pub run: String,
    /// Package with version, and method.
    pub method: String,
    /// The scores of (records, questions), and what they cost; or why there are none.
    pub given: Result<(Matrix, Cost), String>,
}

impl Foreign {
    /// Reads a file from anybody.
    ///
    /// # Errors
    /// When it can't be read, or is not a file of scores.
    pub fn read(path: &Path) -> Result<Self, ScoresError> {
        let failed = |source| ScoresError::File { path: path.to_owned(), source };
        let mut bytes = Vec::new();
        // One more than the bound, which shows a file that grows while it is read.
        File::open(path).map_err(failed)?.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(ScoresError::TooLong { path: path.to_owned() });
        }
        Self::parse(&bytes).map_err(|what| ScoresError::Malformed { path: path.to_owned(), what })
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| error.to_string())?;
        let told = Told(header.metadata().as_ref().ok_or("no metadata")?);
        if told.text("format")? != FORMAT {
            return Err(format!("the format is not {FORMAT}"));
        }
        let (run, method) = (told.text("run")?.to_owned(), line(told.text("method")?, MAX_NAME));
        if let Ok(reason) = told.text("error") {
            return Ok(Self { run, method, given: Err(line(reason, MAX_REASON)) });
        }
        let cost = Cost {
            build_seconds: told.number("build_seconds")?,
            query_seconds: told.number("query_seconds")?,
            bytes_per_contributor: told.number("bytes_per_contributor")?,
        };
        let file = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
        Ok(Self { run, method, given: Ok((scores(&file)?, cost)) })
    }

    /// The scores, once they are as many as the run has records and questions.
    ///
    /// # Errors
    /// When they are not.
    pub fn of(&self, records: usize, questions: usize) -> Result<Result<(&Matrix, Cost), &str>, ScoresError> {
        let (matrix, cost) = match &self.given {
            Ok((matrix, cost)) => (matrix, *cost),
            Err(reason) => return Ok(Err(reason)),
        };
        let (got, expected) = ([matrix.rows(), matrix.columns()], [records, questions]);
        match got == expected {
            true => Ok(Ok((matrix, cost))),
            false => Err(ScoresError::Shape { method: self.method.clone(), got, expected }),
        }
    }
}

/// A file's metadata.
struct Told<'a>(&'a HashMap<String, String>);

impl Told<'_> {
    fn text(&self, key: &str) -> Result<&str, String> {
        self.0.get(key).map(String::as_str).ok_or_else(|| format!("no {key} in the metadata"))
    }

    fn number(&self, key: &str) -> Result<f64, String> {
        let number = self.text(key)?.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0);
        number.ok_or_else(|| format!("{key} is no number from 0 on"))
    }
}

fn scores(file: &SafeTensors<'_>) -> Result<Matrix, String> {
    let tensor = file.tensor("scores").map_err(|error| error.to_string())?;
    let &[rows, columns] = tensor.shape() else { return Err("the scores are no matrix".into()) };
    if tensor.dtype() != Dtype::F32 || rows == 0 || columns == 0 {
        return Err(format!("the scores are {rows} by {columns} of {:?}, expected some of F32", tensor.dtype()));
    }
    let read = |row: &[u8]| row.as_chunks().0.iter().map(|four| f32::from_le_bytes(*four)).collect::<Vec<_>>();
    let values: Vec<Vec<f32>> = tensor.data().chunks(columns * size_of::<f32>()).map(read).collect();
    if values.iter().flatten().any(|value| !value.is_finite()) {
        return Err("a score is not finite".into());
    }
    Matrix::from_rows(values).map_err(|error| error.to_string())
}

/// One line of at most so many characters.
fn line(text: &str, most: usize) -> String {
    let plain: String = text.chars().map(|one| if one.is_control() { ' ' } else { one }).collect();
    plain.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(most).collect()
}

#[cfg(test)]
mod tests {
    use super::{Cost, FORMAT, Foreign, MAX_REASON, ScoresError};
    use crate::study::Matrix;
    use safetensors::serialize;
    use safetensors::tensor::{Dtype, TensorView};

    /// A file with that metadata beside what every one has, and scores of that shape.
    fn file(told: &[(&str, &str)], shape: &[usize], values: &[f32]) -> Vec<u8> {
        let mut metadata: std::collections::HashMap<String, String> =
            [("format", FORMAT), ("run", "ab"), ("method", "one 1.0 GradDot")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into();
        metadata.extend(told.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let views = match shape {
            [] => Vec::new(),
            shape => vec![("scores", TensorView::new(Dtype::F32, shape.to_vec(), &bytes).unwrap())],
        };
        serialize(views, Some(metadata)).unwrap()
    }

    const COST: [(&str, &str); 3] =
        [("build_seconds", "1.5"), ("query_seconds", "0.25"), ("bytes_per_contributor", "4096")];

    #[test]
    fn scores_come_back_with_their_cost() {
        let found = Foreign::parse(&file(&COST, &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, -6.0])).unwrap();
        assert_eq!((found.run.as_str(), found.method.as_str()), ("ab", "one 1.0 GradDot"));
        let cost = Cost { build_seconds: 1.5, query_seconds: 0.25, bytes_per_contributor: 4096.0 };
        let matrix = Matrix::from_rows(vec![vec![1.0, 2.0, 3.0], vec![4.0, 5.0, -6.0]]).unwrap();
        assert_eq!(found.of(2, 3).unwrap(), Ok((&matrix, cost)));
        assert!(matches!(found.of(3, 2), Err(ScoresError::Shape { got: [2, 3], expected: [3, 2], .. })));
    }

    #[test]
    fn a_reason_stands_in_place_of_scores_on_one_line() {
        let reason = format!("line one\n\u{1b}[31mline two {}", "x".repeat(1000));
        let found = Foreign::parse(&file(&[("error", &reason)], &[], &[])).unwrap();
        let said = found.of(2, 3).unwrap().unwrap_err();
        assert!(said.starts_with("line one [31mline two") && said.chars().count() == MAX_REASON, "{said}");
    }

    #[test]
    fn what_is_no_file_of_scores_is_refused() {
        let good = [1.0, 2.0];
        let refused = |bytes: Vec<u8>, why: &str| {
            let said = Foreign::parse(&bytes).unwrap_err();
            assert!(said.contains(why), "{said:?} does not say {why:?}");
        };
        refused(file(&COST, &[1, 2], &[1.0, f32::NAN]), "not finite");
        refused(file(&COST, &[2], &good), "no matrix");
        refused(file(&COST, &[0, 2], &[]), "0 by 2");
        refused(file(&COST[..2], &[1, 2], &good), "bytes_per_contributor");
        refused(file(&[COST[0], ("query_seconds", "-1"), COST[2]], &[1, 2], &good), "query_seconds");
        refused(file(&[COST[0], ("query_seconds", "NaN"), COST[2]], &[1, 2], &good), "query_seconds");
        refused(file(&[("format", "other")], &[1, 2], &good), "format");
        refused(file(&COST, &[], &[]), "scores");
        let whole = file(&COST, &[1, 2], &good);
        for end in 0..whole.len() {
            assert!(Foreign::parse(&whole[..end]).is_err(), "cut at {end}");
        }
    }
}
