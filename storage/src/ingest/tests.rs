use std::path::{Path, PathBuf};

use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};
use tempfile::TempDir;
use tributary_protocol::id::AccountId;

use super::{IngestError, IngestLimits, Ingested, Reason, read_path};

fn write(folder: &TempDir, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, text).unwrap();
    path
}

fn ingest(name: &str, text: impl AsRef<[u8]>) -> Result<Ingested, IngestError> {
    let folder = tempfile::tempdir().unwrap();
    read_path(&write(&folder, name, text), &IngestLimits::default())
}

fn pairs(done: &Ingested) -> Vec<(&str, &str, u64)> {
    done.records.iter().map(|raw| (raw.prompt.as_str(), raw.completion.as_str(), raw.line)).collect()
}

fn reasons(done: &Ingested) -> Vec<(u64, String)> {
    done.refused.iter().map(|refusal| (refusal.line, refusal.reason.to_string())).collect()
}

#[test]
fn every_known_shape_of_a_json_line_is_a_record() {
    let lines = [
        r#"{"text":"plain"}"#,
        r#"{"prompt":"p","completion":"c","extra":1}"#,
        r#"{"question":"q","answer":"a"}"#,
        r#"{"text":"card lost","category":"lost_card"}"#,
        r#"{"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"hello"}]}"#,
        r#"{"messages":[{"role":"system","content":"s"},{"role":"user","content":"u"},{"role":"assistant","content":"x"}]}"#,
    ];
    let done = ingest("a.jsonl", lines.join("\n")).unwrap();
    let expected = [
        ("", "plain", 1),
        ("p", "c", 2),
        ("q", "a", 3),
        ("card lost", "lost_card", 4),
        ("hi", "hello", 5),
        ("system: s\nuser: u", "x", 6),
    ];
    assert_eq!(pairs(&done), expected);
    assert!(done.refused.is_empty() && done.duplicates == 0 && done.stopped.is_none());
}

#[test]
fn each_broken_line_is_refused_for_its_own_reason_and_the_rest_is_kept() {
    let mut text = Vec::new();
    for line in [
        &br#"{"text":"good"}"#[..],
        b"{\"text\":\"\xff\"}",
        b"{\"text\":",
        b"[1,2]",
        br#"{"title":"t","body":"b"}"#,
        br#"{"text":"  "}"#,
        br#"{"text":7}"#,
        br#"{"messages":[{"role":"user","content":"hi"}]}"#,
        b"",
        br#"{"text":"good"}"#,
        br#"{"text":"also good"}"#,
    ] {
        text.extend_from_slice(line);
        text.push(b'\n');
    }
    let done = ingest("a.jsonl", text).unwrap();
    assert_eq!(pairs(&done), [("", "good", 1), ("", "also good", 11)]);
    assert_eq!(done.duplicates, 1);
    let reasons = reasons(&done);
    let expected = [
        (2, "not UTF-8"),
        (3, "not JSON"),
        (4, "not a JSON object"),
        (5, "no known column among body, title; a record needs text"),
        (6, "empty"),
        (7, "text is not a text"),
        (8, "messages: the last one is not the assistant's"),
    ];
    assert_eq!(reasons.len(), expected.len());
    for ((line, reason), (expected_line, start)) in reasons.iter().zip(expected) {
        assert_eq!(*line, expected_line);
        assert!(reason.starts_with(start), "{reason}");
    }
}

#[test]
fn a_refusal_names_file_line_and_reason() {
    let done = ingest("broken.jsonl", "{\"text\":\"x\"}\nnope\n").unwrap();
    let shown = done.refused[0].to_string();
    assert!(shown.contains("broken.jsonl:2: not JSON: expected ident at character 2"), "{shown}");
}

#[test]
fn too_long_lines_and_records_cost_only_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let limits = IngestLimits { max_line_bytes: 60, max_record_bytes: 10, ..IngestLimits::default() };
    let text =
        format!("{{\"text\":\"{}\"}}\n{{\"text\":\"{}\"}}\n{{\"text\":\"ok\"}}\n", "x".repeat(100), "y".repeat(20));
    let done = read_path(&write(&folder, "a.jsonl", text), &limits).unwrap();
    assert_eq!(pairs(&done), [("", "ok", 3)]);
    assert_eq!(done.refused[0].reason, Reason::TooLong { bytes: 111, limit_bytes: 60 });
    assert_eq!(done.refused[1].reason, Reason::TooLong { bytes: 20, limit_bytes: 10 });
}

#[test]
fn csv_with_quotes_line_ends_and_a_mark_is_read() {
    let text = "\u{feff}Text,Category\r\n\"I lost, my \"\"card\"\"\",lost\r\n\"two\nlines\",multi\r\n5\" pipe,inch\r\n\r\nlast,one";
    let done = ingest("a.csv", text).unwrap();
    let expected =
        [("I lost, my \"card\"", "lost", 2), ("two\nlines", "multi", 3), ("5\" pipe", "inch", 5), ("last", "one", 7)];
    assert_eq!(pairs(&done), expected);
}

#[test]
fn csv_columns_are_found_by_name_in_any_place() {
    let done = ingest("a.csv", "id,answer,question\n1,a,q\n").unwrap();
    assert_eq!(pairs(&done), [("q", "a", 2)]);
    let done = ingest("a.tsv", "prompt\tcompletion\nx, y\tz\n").unwrap();
    assert_eq!(pairs(&done), [("x, y", "z", 2)]);
    let done = ingest("a.csv", "text\nonly\n").unwrap();
    assert_eq!(pairs(&done), [("", "only", 2)]);
}

#[test]
fn a_broken_row_does_not_swallow_the_rows_after_it() {
    let done = ingest("a.csv", b"prompt,completion\na,b\n\"open,c\nd,e\nf\nh,\xff\ng,h\n").unwrap();
    assert_eq!(pairs(&done), [("a", "b", 2), ("d", "e", 4), ("g", "h", 7)]);
    let expected =
        [(3, Reason::UnclosedQuote), (5, Reason::FieldCount { expected: 2, found: 1 }), (6, Reason::NotUtf8)];
    let found: Vec<(u64, Reason)> = done.refused.iter().map(|refusal| (refusal.line, refusal.reason.clone())).collect();
    assert_eq!(found, expected);
}

#[test]
fn a_table_without_known_columns_says_which_it_has_and_which_it_needs() {
    let error = ingest("a.csv", "id,value\n1,2\n").unwrap_err().to_string();
    assert!(error.contains("no known column among id, value"), "{error}");
    assert!(error.contains("question and answer"), "{error}");
}

#[test]
fn text_is_cut_at_paragraphs() {
    let folder = tempfile::tempdir().unwrap();
    let limits = IngestLimits { text_record_bytes: 20, ..IngestLimits::default() };
    let path = write(&folder, "a.txt", "one\ntwo\n\nthree\n\n\nfour five six seven\n");
    let done = read_path(&path, &limits).unwrap();
    assert_eq!(pairs(&done), [("", "one\ntwo\n\nthree", 1), ("", "four five six seven", 7)]);
}

#[test]
fn a_long_paragraph_is_cut_at_lines_sentences_words_and_characters() {
    let folder = tempfile::tempdir().unwrap();
    let limits = IngestLimits { text_record_bytes: 20, ..IngestLimits::default() };
    let text = "A sentence is. Another one follows here\nline two\nübermäßigübermäßigübermäßig\n";
    let done = read_path(&write(&folder, "a.txt", text), &limits).unwrap();
    let texts: Vec<&str> = done.records.iter().map(|raw| raw.completion.as_str()).collect();
    let expected = ["A sentence is.", "Another one follows", "here\nline two", "übermäßigübermä", "ßigübermäßig"];
    assert_eq!(texts, expected);
    assert!(texts.iter().all(|text| text.len() <= 20));
}

#[test]
fn a_line_of_text_that_is_no_text_is_refused_alone() {
    let done = ingest("a.txt", b"good\n\xff\xfe\nalso good\n").unwrap();
    assert_eq!(pairs(&done), [("", "good", 1), ("", "also good", 3)]);
    assert_eq!(reasons(&done), [(2, "not UTF-8".to_owned())]);
}

#[test]
fn a_folder_is_read_in_order_and_says_what_it_left_out() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder, "b.jsonl", "{\"text\":\"second\"}\n");
    write(&folder, "a/deep.csv", "text\nfirst\n");
    write(&folder, "c.txt", "third");
    write(&folder, "picture.png", [0x89, b'P', 0, 1]);
    write(&folder, ".hidden.jsonl", "{\"text\":\"no\"}\n");
    write(&folder, "wide.txt", b"\xff\xfeh\0i\0");
    std::os::unix::fs::symlink(folder.path(), folder.path().join("circle")).unwrap();
    let done = read_path(folder.path(), &IngestLimits::default()).unwrap();
    let texts: Vec<&str> = done.records.iter().map(|raw| raw.completion.as_str()).collect();
    assert_eq!(texts, ["first", "second", "third"]);
    let left: Vec<String> = done.refused.iter().map(ToString::to_string).collect();
    assert!(left.iter().any(|line| line.contains("circle: left out: links")), "{left:?}");
    assert!(left.iter().any(|line| line.contains("picture.png: left out: its name ends in none of")), "{left:?}");
    assert!(left.iter().any(|line| line.contains("wide.txt: a binary file; save it as UTF-8")), "{left:?}");
}

#[test]
fn what_holds_nothing_is_an_error_that_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let limits = IngestLimits::default();
    let error = |path: &Path| read_path(path, &limits).unwrap_err();
    assert!(matches!(error(&folder.path().join("gone.jsonl")), IngestError::Missing { .. }));
    assert!(matches!(error(&write(&folder, "e.jsonl", "")), IngestError::EmptyFile { .. }));
    assert!(matches!(error(Path::new("/dev/null")), IngestError::NotAFile { .. }));
    let bad = error(&write(&folder, "bad.jsonl", "nope\n\nnor this\n"));
    let IngestError::NothingUsable { refused, .. } = &bad else { panic!("{bad}") };
    assert_eq!(refused.len(), 2);
    assert!(bad.to_string().contains("holds no usable record (first: "), "{bad}");
    let empty = tempfile::tempdir().unwrap();
    write(&empty, "photo.jpg", "x");
    let none = error(empty.path());
    assert!(matches!(&none, IngestError::NoReadableFiles { refused, .. } if refused.len() == 1));
    assert!(none.to_string().contains(".jsonl"), "{none}");
}

#[test]
fn a_limit_stops_the_reading_and_says_where() {
    let folder = tempfile::tempdir().unwrap();
    let lines: Vec<String> = (0..50).map(|number| format!("{{\"text\":\"record {number}\"}}")).collect();
    let path = write(&folder, "a.jsonl", lines.join("\n"));
    let done = read_path(&path, &IngestLimits { max_records: 10, ..IngestLimits::default() }).unwrap();
    assert_eq!(done.records.len(), 10);
    let stopped = done.stopped.unwrap();
    assert_eq!((stopped.line, stopped.what, stopped.limit), (11, "records", 10));
    let done = read_path(&path, &IngestLimits { max_text_bytes: 40, ..IngestLimits::default() }).unwrap();
    assert_eq!(done.records.len(), 5);
    assert_eq!(done.stopped.unwrap().what, "bytes of text");
}

#[test]
fn refusals_are_counted_beyond_those_that_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(&folder, "a.jsonl", "{\"text\":\"x\"}\n".to_owned() + &"no\n".repeat(30));
    let done = read_path(&path, &IngestLimits { max_refused: 5, ..IngestLimits::default() }).unwrap();
    assert_eq!((done.refused.len(), done.refused_total), (5, 30));
}

#[test]
fn a_file_without_a_known_ending_is_taken_by_its_first_character() {
    assert_eq!(pairs(&ingest("data", "{\"text\":\"x\"}\n").unwrap()), [("", "x", 1)]);
    assert_eq!(pairs(&ingest("notes.md", "# Title\n\nBody").unwrap()), [("", "# Title\n\nBody", 1)]);
}

#[test]
fn records_get_contributor_licence_and_id() {
    let done = ingest("a.jsonl", "{\"prompt\":\"p\",\"completion\":\"c\"}\n").unwrap();
    let records = done.into_records(AccountId([7; 32]), "CC0-1.0");
    assert_eq!(records[0].id, crate::shard::record_id("p", "c"));
    assert_eq!((records[0].contributor, records[0].licence.as_str()), (AccountId([7; 32]), "CC0-1.0"));
}

proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_under_any_name_are_answered(
        bytes in prop::collection::vec(prop::sample::select(b"{}[]\":,\n\r\t text\xff\xc3\xa9 ab".to_vec()), 1..400),
        name in prop::sample::select(vec!["a.jsonl", "a.csv", "a.tsv", "a.txt", "a"]),
    ) {
        let _ = ingest(name, bytes);
    }

    #[test]
    fn any_pairs_written_as_json_lines_come_back(texts in prop::collection::vec((".{0,30}", ".{0,30}"), 1..20)) {
        let line = |(prompt, completion): &(String, String)| {
            serde_json::json!({ "prompt": prompt, "completion": completion }).to_string()
        };
        let text: Vec<String> = texts.iter().map(line).collect();
        let mut expected: Vec<(String, String)> = Vec::new();
        for pair in texts.iter().filter(|(_, completion)| !completion.trim().is_empty()) {
            if !expected.contains(pair) {
                expected.push(pair.clone());
            }
        }
        match ingest("a.jsonl", text.join("\n")) {
            Ok(done) => {
                let found: Vec<_> = done.records.into_iter().map(|raw| (raw.prompt, raw.completion)).collect();
                prop_assert_eq!(found, expected);
                let blank = texts.iter().filter(|(_, completion)| completion.trim().is_empty()).count();
                prop_assert_eq!(done.refused.len(), blank);
            }
            Err(error) => prop_assert!(expected.is_empty(), "{error}"),
        }
    }

    #[test]
    fn any_pairs_written_as_csv_come_back(texts in prop::collection::vec(("[ -~\n]{0,30}", "[ -~\n]{1,30}x"), 1..20)) {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(["question", "answer"]).unwrap();
        for (question, answer) in &texts {
            writer.write_record([question, answer]).unwrap();
        }
        let done = ingest("a.csv", writer.into_inner().unwrap()).unwrap();
        let mut expected: Vec<(String, String)> = Vec::new();
        for pair in texts {
            if !expected.contains(&pair) {
                expected.push(pair);
            }
        }
        let found: Vec<_> = done.records.into_iter().map(|raw| (raw.prompt, raw.completion)).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn text_loses_no_word(words in prop::collection::vec("[a-zäß]{1,12}[ \n.]{1,3}", 1..200), limit in 16_usize..200) {
        let folder = tempfile::tempdir().unwrap();
        let text = words.concat();
        let limits = IngestLimits { text_record_bytes: limit, ..IngestLimits::default() };
        let done = read_path(&write(&folder, "a.txt", &text), &limits).unwrap();
        prop_assert!(done.records.iter().all(|raw| raw.completion.len() <= limit));
        prop_assert_eq!(done.refused.len(), 0);
        // Repeated pieces are counted and not kept, so the comparison needs texts without any.
        if done.duplicates == 0 {
            let dense = |text: &str| text.split_whitespace().collect::<String>();
            let kept: String = done.records.iter().map(|raw| dense(&raw.completion)).collect();
            prop_assert_eq!(kept, dense(&text));
        }
    }

    #[test]
    fn reading_depends_on_nothing_but_the_bytes(bytes in prop::collection::vec(any::<u8>(), 1..200)) {
        let first = ingest("a.jsonl", &bytes).map(|done| done.records.len()).ok();
        prop_assert_eq!(first, ingest("a.jsonl", &bytes).map(|done| done.records.len()).ok());
    }
}
