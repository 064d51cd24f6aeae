//! Python's `json.dumps`, whose spacing models saw in training.
//!
//! Invariant: nesting is bounded, so no value can exhaust the stack.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};

/// Deepest nesting written; a description of tools has about ten levels.
const MAX_DEPTH: usize = 64;
/// Widest indentation.
const MAX_INDENT: usize = 16;

struct Style {
    indent: Option<usize>,
    item: String,
    key: String,
    sorted: bool,
}

/// The filter `tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(super) fn python_json(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let separators: Option<(String, String)> = match options.get::<Option<Value>>("separators")? {
        Some(pair) if !pair.is_none() => {
            Some((pair.get_item_by_index(0)?.to_string(), pair.get_item_by_index(1)?.to_string()))
        }
        _ => None,
    };
    // Python drops the space after an item's comma when it breaks the line.
    let usual = (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned());
    let (item, key) = separators.unwrap_or(usual);
    let sorted = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    let _: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    let style = Style { indent: indent.map(|indent| indent.min(MAX_INDENT)), item, key, sorted };
    let mut text = String::new();
    write(&mut text, value, &style, 0)?;
    Ok(text)
}

fn refused(what: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, what)
}

fn break_line(text: &mut String, style: &Style, depth: usize) {
    if let Some(indent) = style.indent {
        text.push('\n');
        text.extend(std::iter::repeat_n(' ', indent * depth));
    }
}

fn write(text: &mut String, value: &Value, style: &Style, depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(refused("tojson of a value nested too deeply"));
    }
    match value.kind() {
        ValueKind::Undefined => Err(refused("tojson of an undefined value")),
        ValueKind::Map => {
            let mut keys: Vec<Value> = value.try_iter()?.collect();
            if style.sorted {
                keys.sort();
            }
            let entries = keys.iter().map(|key| Ok((Some(key), value.get_item(key)?))).collect::<Result<_, Error>>()?;
            write_all(text, ['{', '}'], entries, style, depth)
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let entries = value.try_iter()?.map(|item| (None, item)).collect();
            write_all(text, ['[', ']'], entries, style, depth)
        }
        _ => {
            let plain = serde_json::to_string(value).map_err(|error| refused(error.to_string()))?;
            text.push_str(&plain);
            Ok(())
        }
    }
}

fn write_all(
    text: &mut String,
    [open, close]: [char; 2],
    entries: Vec<(Option<&Value>, Value)>,
    style: &Style,
    depth: usize,
) -> Result<(), Error> {
    text.push(open);
    let count = entries.len();
    for (at, (key, item)) in entries.into_iter().enumerate() {
        break_line(text, style, depth + 1);
        if let Some(key) = key {
            let key = serde_json::to_string(&key.to_string()).map_err(|error| refused(error.to_string()))?;
            text.push_str(&key);
            text.push_str(&style.key);
        }
        write(text, &item, style, depth + 1)?;
        if at + 1 < count {
            text.push_str(&style.item);
        }
    }
    if count > 0 {
        break_line(text, style, depth);
    }
    text.push(close);
    Ok(())
}
