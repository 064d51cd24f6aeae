//! The report of a study: one page that needs nothing else, every method's figures in one table, and all figures as Parquet and JSON.
//!
//! Invariant: names stand in the page as text, never as markup; a file appears whole, by one rename.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::path::Path;
use std::sync::Arc;

use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use tributary_compute::bench::table::Row;
use tributary_compute::study::methods::{Missing, markdown};
use tributary_compute::study::table::{Finding, OURS, rows};
use tributary_compute::study::{Figure, MEASURES};

/// The page's file.
pub(super) const PAGE: &str = "report.html";
const RAW: &str = "findings.parquet";
const JSON: &str = "findings.json";
const TABLE: &str = "methods.md";

const SCHEMA: &str = "message finding { required binary dataset (UTF8); required binary setting (UTF8); \
    required int64 seed; required binary method (UTF8); required int64 trainings; required double seconds; \
    required binary measure (UTF8); required double value; required double low; required double high; }";

/// Writes all four files.
pub(super) fn write(folder: &Path, findings: &[Finding], missing: &[Missing]) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let place = |name: &str, bytes: &[u8]| {
        let partial = folder.join(format!("{name}.partial"));
        std::fs::write(&partial, bytes)?;
        std::fs::rename(partial, folder.join(name))
    };
    place(RAW, &raw(findings).map_err(io::Error::other)?)?;
    place(JSON, &serde_json::to_vec_pretty(findings).map_err(io::Error::other)?)?;
    place(TABLE, markdown(findings, missing).as_bytes())?;
    place(PAGE, page(findings).as_bytes())
}

fn raw(findings: &[Finding]) -> Result<Vec<u8>, ParquetError> {
    let schema = Arc::new(parse_message_type(SCHEMA)?);
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties))?;
    let mut group = writer.next_row_group()?;
    let text = |of: fn(&Finding) -> &str| findings.iter().map(|one| ByteArray::from(of(one))).collect::<Vec<_>>();
    let number = |of: fn(&Finding) -> f64| findings.iter().map(of).collect::<Vec<_>>();
    let whole = |of: fn(&Finding) -> u64| -> Vec<i64> {
        findings.iter().map(|one| i64::try_from(of(one)).unwrap_or(i64::MAX)).collect()
    };
    column::<ByteArrayType>(&mut group, &text(|one| &one.dataset))?;
    column::<ByteArrayType>(&mut group, &text(|one| &one.setting))?;
    column::<Int64Type>(&mut group, &whole(|one| one.seed))?;
    column::<ByteArrayType>(&mut group, &text(|one| &one.method))?;
    column::<Int64Type>(&mut group, &whole(|one| one.trainings as u64))?;
    column::<DoubleType>(&mut group, &number(|one| one.seconds))?;
    column::<ByteArrayType>(&mut group, &text(|one| &one.measure))?;
    column::<DoubleType>(&mut group, &number(|one| one.figure.value))?;
    column::<DoubleType>(&mut group, &number(|one| one.figure.low))?;
    column::<DoubleType>(&mut group, &number(|one| one.figure.high))?;
    group.close()?;
    writer.into_inner()
}

fn column<T: parquet::data_type::DataType>(
    group: &mut SerializedRowGroupWriter<'_, Vec<u8>>,
    values: &[T::T],
) -> Result<(), ParquetError> {
    let Some(mut column) = group.next_column()? else {
        return Err(ParquetError::General("a column too many".into()));
    };
    column.typed::<T>().write_batch(values, None, None)?;
    column.close()
}

/// Figures of one plot by method, the mean over seeds, in the order in which methods first appear.
type Bars<'a> = Vec<(&'a str, Figure)>;

/// The page.
fn page(findings: &[Finding]) -> String {
    let mut body = String::new();
    for dataset in firsts(findings.iter().map(|one| one.dataset.as_str())) {
        let own: Vec<&Finding> = findings.iter().filter(|one| one.dataset == dataset).collect();
        let copied: Vec<Finding> = own.iter().copied().cloned().collect();
        // Writing to a string cannot fail.
        let _ = write!(body, "<h2>{}</h2>\n{}", escaped(dataset), targets(&rows(&copied)));
        for setting in firsts(own.iter().map(|one| one.setting.as_str())) {
            let own: Vec<&Finding> = own.iter().copied().filter(|one| one.setting == setting).collect();
            let _ = writeln!(body, "<h2>{}, {}</h2>{}", escaped(dataset), escaped(setting), plots(&own));
        }
    }
    format!("{HEAD}{body}</main></body></html>\n")
}

/// Every measure of one setting.
fn plots(findings: &[&Finding]) -> String {
    let mut seeds: Vec<u64> = findings.iter().map(|one| one.seed).collect();
    seeds.sort_unstable();
    seeds.dedup();
    let seeds: Vec<String> = seeds.iter().map(u64::to_string).collect();
    let mut plots = format!("<p>Seeds: {}</p>\n", seeds.join(", "));
    for (measure, title) in MEASURES {
        let bars = bars(findings, measure);
        if !bars.is_empty() {
            // Writing to a string cannot fail.
            let _ = write!(plots, "<h3>{}</h3>\n{}", escaped(title), plot(&bars));
        }
    }
    plots
}

/// Each name once, in the order in which they first appear.
fn firsts<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut found = Vec::new();
    for name in names {
        if !found.contains(&name) {
            found.push(name);
        }
    }
    found
}

/// The targets beside what was measured; what was not measured is left out.
fn targets(rows: &[Row]) -> String {
    let mut table = String::from(
        "<div class=\"wide\"><table><tr><th>measure</th><th>ours</th><th>target</th><th></th><th>beside</th><th></th></tr>\n",
    );
    let number = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.3}"));
    for row in rows.iter().filter(|row| row.ours.is_some() || row.peer_value.is_some()) {
        let (class, verdict) = match row.met {
            Some(true) => ("met", "met"),
            Some(false) => ("missed", "missed"),
            None => ("", ""),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            table,
            "<tr><td>{}</td><td class=\"number\">{}</td><td>{}</td><td class=\"{class}\">{verdict}</td><td>{}</td>\
             <td class=\"number\">{}</td></tr>",
            escaped(row.name),
            number(row.ours),
            escaped(row.target.as_deref().unwrap_or_default()),
            escaped(row.peer.as_deref().unwrap_or_default()),
            number(row.peer_value),
        );
    }
    table.push_str("</table></div>\n");
    table
}

fn bars<'a>(findings: &[&'a Finding], measure: &str) -> Bars<'a> {
    let mut order: Vec<&str> = Vec::new();
    let mut found: BTreeMap<&str, Vec<Figure>> = BTreeMap::new();
    for finding in findings.iter().filter(|finding| finding.measure == measure) {
        if !order.contains(&finding.method.as_str()) {
            order.push(&finding.method);
        }
        found.entry(&finding.method).or_default().push(finding.figure);
    }
    let mean = |figures: &Vec<Figure>| {
        let of = |part: fn(&Figure) -> f64| figures.iter().map(part).sum::<f64>() / figures.len().max(1) as f64;
        Figure { value: of(|one| one.value), low: of(|one| one.low), high: of(|one| one.high) }
    };
    order.into_iter().filter_map(|name| Some((name, mean(found.get(name)?)))).collect()
}

/// Bars with their intervals as whiskers, in percent of the widest.
fn plot(bars: &Bars<'_>) -> String {
    let lowest = bars.iter().map(|(_, figure)| figure.low.min(figure.value)).fold(0.0, f64::min);
    let highest = bars.iter().map(|(_, figure)| figure.high.max(figure.value)).fold(lowest + 1.0, f64::max);
    let at = |value: f64| 100.0 * (value - lowest) / (highest - lowest);
    let mut plot = String::from("<div class=\"plot\">\n");
    for (name, figure) in bars {
        let (from, to) = (at(figure.value.min(0.0)), at(figure.value.max(0.0)));
        let class = if *name == OURS { "ours" } else { "bar" };
        // Writing to a string cannot fail.
        let _ = writeln!(
            plot,
            "<span>{}</span><span class=\"track\"><i class=\"{class}\" style=\"left:{from:.2}%;width:{:.2}%\"></i>\
             <i class=\"range\" style=\"left:{:.2}%;width:{:.2}%\"></i></span><span class=\"number\">{:.3}</span>",
            escaped(name),
            (to - from).max(0.2),
            at(figure.low),
            (at(figure.high) - at(figure.low)).max(0.0),
            figure.value
        );
    }
    plot.push_str("</div>\n");
    plot
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const HEAD: &str = "<!doctype html>
<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">
<title>Attribution, measured</title><style>
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1b1f24; --soft: #e4e8ec; --bar: #9aa7b4; --ours: #0a6c74; --missed: #a3262e; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14171a; --ink: #e6e9ec; --soft: #2a3036; --bar: #5a6672; --ours: #35b3bd; --missed: #ff8f8f; }
}
body { background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; margin: 0; }
main { max-width: 52rem; margin: 0 auto; padding: 1rem; }
h2 { margin-top: 2.5rem; } h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; }
th, td { text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid var(--soft); white-space: nowrap; }
.number { text-align: right; font-variant-numeric: tabular-nums; } .met { color: var(--ours); } .missed { color: var(--missed); }
.plot { display: grid; grid-template-columns: max-content 1fr 3.5rem; gap: .15rem .8rem; font-size: .9rem; align-items: center; }
.track { position: relative; height: 1rem; background: var(--soft); } .track i { position: absolute; }
.bar, .ours { top: 0; bottom: 0; background: var(--bar); } .ours { background: var(--ours); }
.range { top: 45%; height: 10%; background: var(--ink); }
@media (max-width: 36rem) {
  .plot { grid-template-columns: 1fr 3.5rem; } .plot > span:nth-child(3n + 1) { grid-column: 1 / -1; margin-top: .25rem; line-height: 1.2; }
}
</style></head><body><main><h1>Attribution, measured</h1>
<p>Contributors were really left out: the adapter was trained again without them, from the same seed and order. Each bar
is the mean over seeds, each line the middle 95 % of 1,000 bootstrap draws over questions and subsets. What is misallocated, lost or
gained by cheating is better low, everything else high.</p>
";

#[cfg(test)]
mod tests {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::RowAccessor;

    use super::{Figure, Finding, JSON, PAGE, RAW, TABLE, write};

    fn findings() -> Vec<Finding> {
        let figure = Figure { value: 0.5, low: -0.25, high: 0.75 };
        let of = |method: &str| Finding {
            dataset: "a <b> & c".into(),
            setting: "alike".into(),
            seed: 7,
            method: method.into(),
            trainings: 16,
            seconds: 1.5,
            measure: "clds-half".into(),
            figure,
        };
        vec![of("GradDot"), of("LOCO-delta, exact k=8")]
    }

    #[test]
    fn all_files_hold_the_findings() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &findings(), &[]).unwrap();
        let reader = SerializedFileReader::new(std::fs::File::open(folder.path().join(RAW)).unwrap()).unwrap();
        let rows: Vec<_> = reader.get_row_iter(None).unwrap().map(Result::unwrap).collect();
        assert_eq!((rows.len(), rows[0].get_string(3).unwrap().as_str()), (2, "GradDot"));
        assert_eq!((rows[1].get_long(2).unwrap(), rows[1].get_double(8).unwrap()), (7, -0.25));
        let read: Vec<Finding> = serde_json::from_slice(&std::fs::read(folder.path().join(JSON)).unwrap()).unwrap();
        assert_eq!(read, findings());
        let table = std::fs::read_to_string(folder.path().join(TABLE)).unwrap();
        assert!(table.contains("| GradDot | 16 |"), "{table}");
        let page = std::fs::read_to_string(folder.path().join(PAGE)).unwrap();
        assert!(page.contains("a &lt;b&gt; &amp; c, alike") && !page.contains("<b>"));
        assert!(page.contains("class=\"ours\"") && page.contains(">0.500</span>"));
        assert!(page.contains("class=\"missed\">missed</td>") && page.contains(">&gt;= 0.8</td>"), "{page}");
        assert!(!page.contains("http") && page.contains("prefers-color-scheme"), "the page needs nothing else");
    }
}
