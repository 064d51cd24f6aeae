//! The main job, end to end: the demo with every node a process, undisturbed and with nodes killed.

use std::path::Path;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::support::{folder, stderr, tributary};

/// The longest a demo may take on a loaded machine with unoptimised drivers.
const DEMO_PATIENCE: Duration = Duration::from_secs(900);

/// Starts a demo in `folder`; its output goes to files, so that it never waits for a reader.
fn begin(folder: &Path) -> Child {
    let file = |name: &str| std::fs::File::create(folder.join(name)).unwrap();
    let mut command = tributary();
    command.args(["demo", "--json", "--dir"]).arg(folder.join("demo")).stdout(file("out")).stderr(file("err"));
    command.spawn().unwrap()
}

fn amount(value: &Value) -> u128 {
    value.as_str().unwrap().parse().unwrap()
}

/// What the demo said and the ends of all nodes' logs, for whoever has to find out why it failed.
fn last_words(folder: &Path) -> String {
    const LINES: usize = 25;
    let mut told = std::fs::read_to_string(folder.join("err")).unwrap_or_default();
    for node in std::fs::read_dir(folder.join("demo")).into_iter().flatten().flatten() {
        let Ok(log) = std::fs::read_to_string(node.path().join("node.log")) else { continue };
        let lines: Vec<&str> = log.lines().collect();
        told += &format!("{}\n{}\n", node.path().display(), lines[lines.len().saturating_sub(LINES)..].join("\n"));
    }
    told
}

/// What must hold of every demo's document.
fn check(status: ExitStatus, folder: &Path) -> Value {
    if !status.success() {
        panic!("{}", last_words(folder));
    }
    let document: Value = serde_json::from_slice(&std::fs::read(folder.join("out")).unwrap()).unwrap();
    let held_out = &document["held_out"];
    assert!(held_out["base"].as_f64().unwrap() <= 0.10, "{held_out}");
    assert!(held_out["adapter"].as_f64().unwrap() >= 0.80, "{held_out}");
    assert_eq!(document["attribution"]["sums_exact"], true);
    assert!(document["attribution"]["right_contributor"].as_f64().unwrap() >= 0.90, "{}", document["attribution"]);
    let answers = held_out["questions"].as_u64().unwrap();
    assert_eq!(document["verification"]["inference_checked"].as_u64().unwrap(), answers);
    assert!(document["verification"]["training_segments_checked"].as_u64().unwrap() >= 1);
    let settlement = &document["settlement"];
    assert!(amount(&settlement["claims"]) > 0);
    assert_eq!(amount(&settlement["claims"]) + amount(&settlement["remaining"]), amount(&settlement["deposits"]));
    assert!(document["phases"].as_array().unwrap().iter().all(|phase| phase["seconds"].as_f64().is_some()));
    document
}

/// Flips every bit of a receipt file in turn, at places spread over the whole file.
fn no_bit_of_a_receipt_can_change(path: &Path) {
    let bytes = std::fs::read(path).unwrap();
    assert!(tributary_peer::receiptfile::verify(&bytes).is_ok());
    for bit in 0..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(tributary_peer::receiptfile::verify(&changed).is_err(), "bit {bit} of {}", path.display());
    }
}

#[test]
fn the_demo_learns_attributes_verifies_and_pays() {
    let folder = folder();
    let status = begin(folder.path()).wait().unwrap();
    let document = check(status, folder.path());
    let receipts = document["receipts"].as_array().unwrap();
    assert!(!receipts.is_empty());
    no_bit_of_a_receipt_can_change(Path::new(receipts[0].as_str().unwrap()));
    let path = receipts[0].as_str().unwrap();
    let verified = tributary().args(["receipt", "verify", path]).output().unwrap();
    assert_eq!(verified.status.code(), Some(0), "{}", stderr(&verified));
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
    let refused = tributary().args(["receipt", "verify", path]).output().unwrap();
    assert_eq!(refused.status.code(), Some(6), "{}", stderr(&refused));
}

/// A small generator, so that a run can be repeated from its seed.
fn draw(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

fn pid_of(node: &Path) -> Option<u32> {
    let notice: Value = serde_json::from_slice(&std::fs::read(node.join("api.json")).ok()?).ok()?;
    u32::try_from(notice["pid"].as_u64()?).ok()
}

#[test]
fn killing_nodes_at_random_moments_still_ends_in_a_correct_report() {
    let given = std::env::var("TRIBUTARY_KILL_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = given.unwrap_or_else(|| u64::from(std::process::id()) * 2_654_435_761 + 1);
    println!("replay with TRIBUTARY_KILL_SEED={seed}");
    let folder = folder();
    let dir = folder.path().join("demo");
    let mut demo = begin(folder.path());
    let mut random = seed;
    let nodes = ["keeper", "worker-1", "builder", "contributor-1", "contributor-2"];
    let began = Instant::now();
    let mut kills = 0;
    let mut next = Duration::from_secs(3 + draw(&mut random) % 25);
    while demo.try_wait().unwrap().is_none() {
        if began.elapsed() > DEMO_PATIENCE {
            panic!("seed {seed}: the demo does not end\n{}", last_words(folder.path()));
        }
        if kills < 3 && began.elapsed() >= next {
            let victim = nodes[usize::try_from(draw(&mut random) % 5).unwrap()];
            if let Some(pid) = pid_of(&dir.join(victim)) {
                println!("killing {victim} at {:.1} s", began.elapsed().as_secs_f64());
                let killed = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
                assert!(killed.success());
                kills += 1;
            }
            next = began.elapsed() + Duration::from_secs(10 + draw(&mut random) % 40);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let status = demo.wait().unwrap();
    assert!(kills > 0, "seed {seed}: the demo ended before anybody was killed");
    let document = check(status, folder.path());
    println!("seed {seed}: {kills} kills, {} restarts", document["restarts"]);
}

/// A file nobody here would call clean: good rows, rows without an answer, a row that is no JSON.
fn own_file(folder: &Path) -> std::path::PathBuf {
    let path = folder.join("own.jsonl");
    let mut text = String::new();
    for number in 0..60 {
        let row =
            serde_json::json!({"question": format!("What is {number} and one?"), "answer": format!("{}", number + 1)});
        text.push_str(&format!("{row}\n"));
    }
    text.push_str("{\"question\": \n{\"colour\": \"red\"}\n");
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn a_demo_on_the_users_own_file_says_what_it_used_and_refused() {
    let folder = folder();
    let dir = folder.path().join("demo");
    let mut command = tributary();
    command.args(["demo", "--json", "--data"]).arg(own_file(folder.path())).arg("--dir").arg(&dir);
    let done = command.output().unwrap();
    assert_eq!(done.status.code(), Some(0), "{}", stderr(&done));
    assert!(stderr(&done).contains("own.jsonl:61: "), "{}", stderr(&done));
    let document: Value = serde_json::from_slice(&done.stdout).unwrap();
    let own = &document["own_data"];
    assert_eq!([&own["usable"], &own["used"], &own["held_out"], &own["refused"]], [60, 52, 8, 2], "{own}");
    assert_eq!(document["held_out"]["questions"], 8);
    assert_eq!(document["attribution"]["sums_exact"], true);
    assert_eq!(document["attribution"]["right_contributor"], Value::Null, "nobody knows whose facts these are");
    assert_eq!(document["verification"]["inference_checked"], 8);
    let settlement = &document["settlement"];
    assert_eq!(amount(&settlement["claims"]) + amount(&settlement["remaining"]), amount(&settlement["deposits"]));
}

#[test]
fn a_demo_without_usable_data_leaves_nothing_behind() {
    let folder = folder();
    let (file, dir) = (folder.path().join("empty.jsonl"), folder.path().join("demo"));
    std::fs::write(&file, "not json\n").unwrap();
    let done = tributary().args(["demo", "--data"]).arg(&file).arg("--dir").arg(&dir).output().unwrap();
    assert_eq!(done.status.code(), Some(2), "{}", stderr(&done));
    assert!(stderr(&done).contains("empty.jsonl:1: "), "{}", stderr(&done));
    assert!(!dir.exists());
}

#[test]
fn a_demo_whose_node_cannot_be_kept_running_ends_with_its_name() {
    let folder = folder();
    let mut demo = begin(folder.path());
    while !folder.path().join("demo").is_dir() {
        assert!(demo.try_wait().unwrap().is_none(), "{}", last_words(folder.path()));
        std::thread::sleep(Duration::from_millis(5));
    }
    // The builder is started after the keeper, and has no folder where a file is.
    std::fs::write(folder.path().join("demo").join("builder"), "in the way").unwrap();
    assert_eq!(demo.wait().unwrap().code(), Some(4));
    let told = std::fs::read_to_string(folder.path().join("err")).unwrap();
    assert!(told.contains("builder cannot be started in"), "{told}");
}

fn lives(pid: u32) -> bool {
    std::process::Command::new("kill").args(["-0", &pid.to_string()]).output().unwrap().status.success()
}

#[test]
fn an_interrupted_demo_ends_its_nodes() {
    let folder = folder();
    let dir = folder.path().join("demo");
    let mut demo = begin(folder.path());
    let began = Instant::now();
    let pid = loop {
        assert!(began.elapsed() < DEMO_PATIENCE, "no node starts");
        match pid_of(&dir.join("builder")) {
            Some(pid) => break pid,
            None => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    let killed = std::process::Command::new("kill").args(["-INT", &demo.id().to_string()]).status().unwrap();
    assert!(killed.success());
    assert_eq!(demo.wait().unwrap().code(), Some(130));
    assert!(!lives(pid), "a node outlived its demo");
}
