//! Models of a hub: what a repository has at a revision, and its files on this disk.
//!
//! Invariant: nothing that a hub says becomes part of a path: owner and repository are checked letter by letter, a
//! revision is pinned to a commit of forty digits before a file is asked for, and file names are those of the closed
//! list of `storage::base`. A file is whole and has the hash the hub names, or its name does not exist.

mod fetch;
mod source;

use std::path::PathBuf;
use std::time::Duration;

use hf_hub::api::tokio::{Api, ApiBuilder};
use hf_hub::{Cache, Repo, RepoType};
use serde::Deserialize;
use tributary_storage::base;

pub use fetch::Staged;
pub use source::HubSource;

/// Where models are unless a mirror is named.
const ENDPOINT: &str = "https://huggingface.co";
/// The longest list of files read: some repositories have thousands.
const LISTING_MAX_BYTES: usize = 8 << 20;
/// Time without a byte after which a hub counts as gone.
const SILENCE: Duration = Duration::from_secs(30);

/// Why a model is not to be had from a hub.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The hub does not answer: another try can help.
    #[error("{endpoint} does not answer: {reason}")]
    Unreachable {
        /// Which hub.
        endpoint: String,
        /// What was tried.
        reason: String,
    },
    /// The hub says no.
    #[error("{what}: the hub answers {status}")]
    Refused {
        /// What was asked for.
        what: String,
        /// The HTTP status.
        status: u16,
    },
    /// The hub's answer is none.
    #[error("the hub's answer is refused: {0}")]
    Malformed(String),
    /// The repository has no model that can be read.
    #[error("{0}")]
    NoModel(String),
    /// The files are larger than what is taken.
    #[error("the files have {bytes} bytes, at most {limit} are taken")]
    OverLimit {
        /// All files together.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// A file is not what the hub said it is.
    #[error("{name} does not have the hash that the hub names")]
    Corrupt {
        /// The file.
        name: String,
    },
    /// Another process pulls the same.
    #[error("another tributary model pull of the same model is under way")]
    Busy,
    /// This machine cannot keep it.
    #[error("{}: {source}", path.display())]
    Disk {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// One file at a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubFile {
    /// Its name in the repository.
    pub remote: String,
    /// Its name in a base.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256, of large files.
    pub sha256: Option<String>,
}

/// A model at a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Forty hexadecimal digits.
    pub commit: String,
    /// What the card says.
    pub licence: Option<String>,
    /// The files a base needs, and no others.
    pub files: Vec<HubFile>,
}

impl Snapshot {
    /// All files together.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.files.iter().fold(0, |sum, file| sum.saturating_add(file.bytes))
    }
}

#[derive(Deserialize)]
struct Listing {
    sha: String,
    siblings: Vec<Sibling>,
    #[serde(rename = "cardData")]
    card: Option<CardData>,
}

#[derive(Deserialize)]
struct CardData {
    license: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: Option<String>,
    size: Option<u64>,
}

/// A hub.
pub struct Hub {
    api: Api,
    endpoint: String,
}

/// Hugging Face's own folder of this user.
fn hugging_face_home() -> PathBuf {
    let home = || std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    std::env::var_os("HF_HOME").map_or_else(|| home().join(".cache/huggingface"), PathBuf::from)
}

fn cache() -> Cache {
    Cache::new(hugging_face_home().join("hub"))
}

/// Whether `commit` names one: only such a text is joined to a path or kept.
fn is_commit(commit: &str) -> bool {
    commit.len() == 40 && commit.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A snapshot that Hugging Face's own programs left in this user's cache: its folder and commit.
#[must_use]
pub fn cached(source: &HubSource) -> Option<(PathBuf, String)> {
    let found = cache().repo(repo(source, source.revision())).get("config.json")?;
    let folder = found.parent()?.to_owned();
    let commit = folder.file_name()?.to_str()?.to_owned();
    is_commit(&commit).then_some((folder, commit))
}

fn repo(source: &HubSource, revision: &str) -> Repo {
    Repo::with_revision(source.id(), RepoType::Model, revision.to_owned())
}

impl Hub {
    /// The hub at `mirror`, else at `HF_ENDPOINT`, else Hugging Face's.
    ///
    /// # Errors
    /// When the address is none.
    pub fn new(mirror: Option<String>) -> Result<Self, HubError> {
        let endpoint = mirror.or_else(|| std::env::var("HF_ENDPOINT").ok()).unwrap_or_else(|| ENDPOINT.into());
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        let encrypted = endpoint.starts_with("https://");
        if !encrypted && !endpoint.starts_with("http://") {
            return Err(HubError::Malformed(format!("{endpoint} is no address of a hub")));
        }
        let token = std::env::var("HF_TOKEN").ok().or_else(|| cache().token());
        let api = ApiBuilder::from_cache(cache())
            .with_endpoint(endpoint.clone())
            // A secret goes over no open line.
            .with_token(token.filter(|_| encrypted))
            .with_progress(false)
            .build()
            .map_err(|error| HubError::Malformed(error.to_string()))?;
        Ok(Self { api, endpoint })
    }

    /// What the model has at its revision, and the commit behind that. `file` chooses one of several GGUF files.
    ///
    /// # Errors
    /// When the hub does not answer, knows no such model, or it has no weights that can be read.
    pub async fn resolve(&self, source: &HubSource, file: Option<&str>) -> Result<Snapshot, HubError> {
        let asked = self.api.repo(repo(source, source.revision())).info_request().query(&[("blobs", "true")]);
        let answer = tokio::time::timeout(SILENCE, asked.send()).await.map_err(|_| self.silent())?;
        let mut answer = answer.map_err(|error| self.unreachable(&error))?;
        let status = answer.status();
        if !status.is_success() {
            return Err(self.refusal(&source.to_string(), status.as_u16()));
        }
        let mut bytes = Vec::new();
        while let Some(piece) = tokio::time::timeout(SILENCE, answer.chunk())
            .await
            .map_err(|_| self.silent())?
            .map_err(|error| self.unreachable(&error))?
        {
            bytes.extend_from_slice(&piece);
            if bytes.len() > LISTING_MAX_BYTES {
                return Err(HubError::Malformed(format!("a listing of more than {LISTING_MAX_BYTES} bytes")));
            }
        }
        snapshot_of(&bytes, file)
    }

    fn silent(&self) -> HubError {
        self.unreachable(&format!("nothing for {} s", SILENCE.as_secs()))
    }

    fn unreachable(&self, reason: &dyn std::fmt::Display) -> HubError {
        HubError::Unreachable { endpoint: self.endpoint.clone(), reason: reason.to_string() }
    }

    /// A hub that is overloaded or broken may answer later; one that says no will not.
    fn refusal(&self, what: &str, status: u16) -> HubError {
        match status {
            429 | 500.. => self.unreachable(&format!("{what}: status {status}")),
            _ => HubError::Refused { what: what.to_owned(), status },
        }
    }
}

fn snapshot_of(bytes: &[u8], file: Option<&str>) -> Result<Snapshot, HubError> {
    let listing: Listing = serde_json::from_slice(bytes).map_err(|error| HubError::Malformed(error.to_string()))?;
    if !is_commit(&listing.sha) {
        return Err(HubError::Malformed("the commit is no hash".into()));
    }
    let licence = listing.card.and_then(|card| card.license?.as_str().map(str::to_owned));
    Ok(Snapshot { commit: listing.sha, licence, files: chosen(listing.siblings, file)? })
}

/// The files that make the base: safetensors, else one GGUF file.
fn chosen(siblings: Vec<Sibling>, file: Option<&str>) -> Result<Vec<HubFile>, HubError> {
    let has = |name: &str| siblings.iter().any(|sibling| sibling.rfilename == name);
    let is_single = has("model.safetensors");
    let is_dense = file.is_none() && (is_single || has("model.safetensors.index.json"));
    let ggufs: Vec<String> =
        siblings.iter().map(|sibling| sibling.rfilename.clone()).filter(|name| is_gguf(name)).collect();
    let gguf = match (is_dense, file, ggufs.as_slice()) {
        (true, ..) => None,
        (false, Some(file), _) if ggufs.iter().any(|name| name == file) => Some(file.to_owned()),
        (false, Some(file), _) => return Err(HubError::NoModel(format!("there is no GGUF file {file}"))),
        (false, None, [only]) => Some(only.clone()),
        (false, None, []) => {
            return Err(HubError::NoModel("there are neither safetensors nor GGUF files".into()));
        }
        (false, None, several) => {
            return Err(HubError::NoModel(format!("there are several GGUF files: {}", several.join(", "))));
        }
    };
    let wanted = |name: &str| match &gguf {
        Some(gguf) => name == gguf,
        None => {
            let sharded = name == "model.safetensors.index.json" || name.starts_with("model-");
            base::is_base_file(name) && name != base::GGUF && !(is_single && sharded)
        }
    };
    let mut files = Vec::new();
    for sibling in siblings.into_iter().filter(|sibling| wanted(&sibling.rfilename)) {
        let lfs = sibling.lfs.as_ref();
        let bytes = lfs.and_then(|lfs| lfs.size).or(sibling.size);
        let bytes = bytes.ok_or_else(|| HubError::Malformed(format!("{} has no size", sibling.rfilename)))?;
        let name = if gguf.is_some() { base::GGUF.to_owned() } else { sibling.rfilename.clone() };
        let sha256 = sibling.lfs.and_then(|lfs| lfs.sha256);
        files.push(HubFile { remote: sibling.rfilename, name, bytes, sha256 });
    }
    Ok(files)
}

/// A plain name that ends as GGUF files do; folders of a repository are not looked into.
fn is_gguf(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    name.ends_with(".gguf") && !name.starts_with('.') && name.len() <= 200 && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn listing(files: &[&str]) -> Vec<u8> {
        let siblings: Vec<_> = files.iter().map(|name| json!({"rfilename": name, "size": 7})).collect();
        json!({"sha": "ab".repeat(20), "siblings": siblings, "cardData": {"license": "mit"}}).to_string().into_bytes()
    }

    fn names(files: &[&str], file: Option<&str>) -> Result<Vec<String>, String> {
        let found = snapshot_of(&listing(files), file).map_err(|error| error.to_string())?;
        Ok(found.files.into_iter().map(|file| file.name).collect())
    }

    #[test]
    fn only_the_files_of_one_base_are_chosen() {
        let small = ["README.md", "config.json", "tokenizer.json", "pytorch_model.bin", "onnx/model.onnx", "../x"];
        let single = [&small[..], &["model.safetensors", "model-00001-of-00001.safetensors", "a.gguf"]].concat();
        assert_eq!(names(&single, None).unwrap(), ["config.json", "tokenizer.json", "model.safetensors"]);
        assert_eq!(names(&single, Some("a.gguf")).unwrap(), ["model.gguf"]);
        let sharded = ["model.safetensors.index.json", "model-00001-of-00001.safetensors", "config.json"];
        assert_eq!(names(&sharded, None).unwrap().len(), 3);
        assert_eq!(names(&["q4.gguf", "README.md"], None).unwrap(), ["model.gguf"]);
        assert!(names(&["q4.gguf", "q8.gguf"], None).unwrap_err().contains("q4.gguf, q8.gguf"));
        assert!(names(&["../q4.gguf"], None).unwrap_err().contains("neither"));
        assert!(names(&["q4.gguf"], Some("../../etc/passwd")).is_err());
    }

    #[test]
    fn a_hub_that_lies_is_refused() {
        let refused = |value: serde_json::Value| snapshot_of(value.to_string().as_bytes(), None).is_err();
        let file = json!({"rfilename": "model.safetensors", "size": 7});
        assert!(refused(json!({"sha": "../../../../etc", "siblings": [file]})));
        assert!(refused(json!({"sha": "ab".repeat(20), "siblings": [{"rfilename": "model.safetensors"}]})));
        assert!(refused(json!({"siblings": [file]})));
        assert!(snapshot_of(b"<html>", None).is_err());
        assert!(Hub::new(Some("ftp://example.invalid".into())).is_err());
    }
}
