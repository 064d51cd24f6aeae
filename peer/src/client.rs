//! A client of a running node's HTTP API, found through its folder.
//!
//! Invariant: an error tells apart a node that is down, one that refused and why, and a broken answer, so that
//! the command line can give each its exit code.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt;
use reqwest::Method;
use reqwest::redirect::Policy;
use serde_json::Value;

use crate::home::ApiNotice;

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// No node runs on this folder.
    #[error("no node runs on {}", folder.display())]
    NodeDown {
        /// The folder.
        folder: PathBuf,
    },
    /// The node refused.
    #[error("{message}")]
    Refused {
        /// The API's code.
        code: String,
        /// What, why.
        message: String,
        /// What to do.
        hint: String,
    },
    /// The answer broke off or is none of ours.
    #[error("the node's answer broke off: {0}")]
    Broken(String),
}

impl ClientError {
    /// The exit code of the command line.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NodeDown { .. } => 3,
            Self::Broken(_) => 4,
            Self::Refused { code, .. } => match code.as_str() {
                "usage" | "not_found" => 2,
                "unreachable" => 4,
                "funds" => 5,
                "verification" => 6,
                _ => 1,
            },
        }
    }

    /// What the user can do.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::NodeDown { .. } => "start it with tributary up, or name its folder with --data-dir".into(),
            Self::Refused { hint, .. } => hint.clone(),
            Self::Broken(_) => "try again; tributary status shows whether the node is well".into(),
        }
    }
}

/// More than any notice of ours has.
const NOTICE_MAX_BYTES: u64 = 4 * 1024;
/// How long a call may take; adding a large file or a claim takes longest.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);

/// A client of one node.
#[derive(Debug, Clone)]
pub struct Client {
    folder: PathBuf,
    http: reqwest::Client,
}

impl Client {
    /// A client of the node that runs on `folder`.
    ///
    /// # Panics
    /// Never: the HTTP client is built without anything that could fail.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        let http = reqwest::Client::builder().no_proxy().redirect(Policy::none()).build();
        Self { folder: folder.to_owned(), http: http.expect("invariant: a client without TLS roots always builds") }
    }

    /// Where the node's API is; read anew for each call, since a restarted node has another port.
    ///
    /// # Errors
    /// [`ClientError::NodeDown`] when no node runs.
    pub fn notice(&self) -> Result<ApiNotice, ClientError> {
        let down = || ClientError::NodeDown { folder: self.folder.clone() };
        let path = self.folder.join("api.json");
        // A folder may come from anywhere: only a small file that names this machine is believed.
        let file = std::fs::metadata(&path).ok().filter(|file| file.is_file() && file.len() <= NOTICE_MAX_BYTES);
        file.ok_or_else(down)?;
        let bytes = std::fs::read(path).map_err(|_| down())?;
        let notice: ApiNotice = serde_json::from_slice(&bytes).map_err(|_| down())?;
        if notice.address.ip().is_loopback() { Ok(notice) } else { Err(down()) }
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<reqwest::Response, ClientError> {
        self.request(method, path, |request| match body {
            Some(body) => request.json(body),
            None => request,
        })
        .await
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        fill: impl FnOnce(reqwest::RequestBuilder) -> reqwest::RequestBuilder,
    ) -> Result<reqwest::Response, ClientError> {
        let notice = self.notice()?;
        let url = format!("http://{}{path}", notice.address);
        let request = fill(self.http.request(method, url).bearer_auth(&notice.token));
        let response = request.send().await.map_err(|error| {
            if error.is_connect() {
                ClientError::NodeDown { folder: self.folder.clone() }
            } else {
                ClientError::Broken(error.to_string())
            }
        })?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body: Value = response.json().await.unwrap_or_default();
        Err(refusal(&body, status.as_u16()))
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, ClientError> {
        self.call_within(method, path, body, CALL_TIMEOUT).await
    }

    async fn call_within(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        patience: Duration,
    ) -> Result<Value, ClientError> {
        let broken = |error: reqwest::Error| ClientError::Broken(error.to_string());
        let work = async { self.send(method, path, body).await?.json().await.map_err(broken) };
        let ended = tokio::time::timeout(patience, work).await;
        ended.map_err(|_| ClientError::Broken(format!("no answer for {} s", patience.as_secs())))?
    }

    /// `GET path`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn get(&self, path: &str) -> Result<Value, ClientError> {
        self.call(Method::GET, path, None).await
    }

    /// `GET path`, for what may take longer than other calls.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn get_within(&self, path: &str, patience: Duration) -> Result<Value, ClientError> {
        self.call_within(Method::GET, path, None, patience).await
    }

    /// `POST path`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value, ClientError> {
        self.call(Method::POST, path, Some(body)).await
    }

    /// `POST path`, for what may take longer than other calls.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn post_within(&self, path: &str, body: &Value, patience: Duration) -> Result<Value, ClientError> {
        self.call_within(Method::POST, path, Some(body), patience).await
    }

    /// `POST path` with a file's bytes, for what may take longer than other calls.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn post_file(&self, path: &str, bytes: Vec<u8>, patience: Duration) -> Result<Value, ClientError> {
        let broken = |error: reqwest::Error| ClientError::Broken(error.to_string());
        let work = async { self.request(Method::POST, path, |it| it.body(bytes)).await?.json().await.map_err(broken) };
        let ended = tokio::time::timeout(patience, work).await;
        ended.map_err(|_| ClientError::Broken(format!("no answer for {} s", patience.as_secs())))?
    }

    /// `GET path` as a file's bytes.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn get_file(&self, path: &str) -> Result<Vec<u8>, ClientError> {
        let response = self.send(Method::GET, path, None).await?;
        let bytes = response.bytes().await.map_err(|error| ClientError::Broken(error.to_string()))?;
        Ok(bytes.to_vec())
    }

    /// `GET path` as text.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn get_text(&self, path: &str) -> Result<String, ClientError> {
        let response = self.send(Method::GET, path, None).await?;
        response.text().await.map_err(|error| ClientError::Broken(error.to_string()))
    }

    /// Asks a question; `on_line` gets each line of the answer as it comes. Returns the last line's `done`.
    ///
    /// # Errors
    /// See [`ClientError`]; also when the stream breaks off.
    pub async fn ask(&self, body: &Value, on_line: &mut (dyn FnMut(&Value) + Send)) -> Result<Value, ClientError> {
        let mut bytes = self.send(Method::POST, "/api/ask", Some(body)).await?.bytes_stream();
        let mut waiting = Vec::new();
        while let Some(chunk) = bytes.next().await {
            waiting.extend_from_slice(&chunk.map_err(|error| ClientError::Broken(error.to_string()))?);
            while let Some(end) = waiting.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = waiting.drain(..=end).collect();
                let line: Value =
                    serde_json::from_slice(&line).map_err(|error| ClientError::Broken(error.to_string()))?;
                if let Some(done) = line.get("done") {
                    return Ok(done.clone());
                }
                if line.get("error").is_some() {
                    return Err(refusal(&line, 0));
                }
                on_line(&line);
            }
        }
        Err(ClientError::Broken("the answer ended without a receipt".into()))
    }
}

fn refusal(body: &Value, status: u16) -> ClientError {
    let field = |name: &str| body["error"][name].as_str().map(str::to_owned);
    ClientError::Refused {
        code: field("code").unwrap_or_else(|| "internal".into()),
        message: field("message").unwrap_or_else(|| format!("the node answered with status {status}")),
        hint: field("hint").unwrap_or_else(|| "look at the node's log".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_small_notice_that_names_this_machine_is_believed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.json");
        let notice = |address: &str| format!(r#"{{"address":"{address}","token":"t","pid":1,"node":"n"}}"#);
        std::fs::write(&path, notice("127.0.0.1:9")).unwrap();
        assert!(Client::new(folder.path()).notice().is_ok());
        std::fs::write(&path, notice("192.0.2.1:9")).unwrap();
        assert!(Client::new(folder.path()).notice().is_err());
        std::fs::write(&path, notice("127.0.0.1:9") + &" ".repeat(5_000)).unwrap();
        assert!(Client::new(folder.path()).notice().is_err());
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(Client::new(folder.path()).notice().is_err());
    }
}
