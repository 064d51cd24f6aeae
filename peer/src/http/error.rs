//! Errors of the API: a code the command line turns into its exit code, what is wrong, what to do.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tributary_settlement::chain::ChainError;
use tributary_storage::journal::JournalError;

use crate::handle::Stopped;
use crate::settle::SettleError;

/// An error for the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    hint: String,
    /// The field of the request that is at fault.
    field: Option<String>,
    /// Its kind in more detail, as the OpenAI API names it.
    detail: Option<&'static str>,
}

impl ApiError {
    fn new(status: StatusCode, code: &'static str, message: impl ToString, hint: &str) -> Self {
        Self { status, code, message: message.to_string(), hint: hint.to_owned(), field: None, detail: None }
    }

    /// A field of the request is understood and can't be honoured.
    pub(super) fn unsupported(field: &'static str, message: impl ToString, hint: &str) -> Self {
        Self::usage(message, hint).about(field).with_detail("unsupported_parameter")
    }

    /// The same about this field of the request.
    pub(super) fn about(self, field: &str) -> Self {
        Self { field: Some(field.to_owned()), ..self }
    }

    /// The same with its kind in more detail.
    pub(super) fn with_detail(self, detail: &'static str) -> Self {
        Self { detail: Some(detail), ..self }
    }

    /// The field that is at fault.
    pub(super) fn field(&self) -> Option<&str> {
        self.field.as_deref()
    }

    /// Its kind in more detail.
    pub(super) const fn detail(&self) -> Option<&'static str> {
        self.detail
    }

    /// What is wrong, and what to do where that is no command of ours: for programs that know the OpenAI API.
    pub(super) fn sentence_for_programs(&self) -> String {
        let is_command = self.hint.contains("--") || self.hint.contains("tributary ");
        if is_command { self.message.clone() } else { self.sentence() }
    }

    /// What was given is wrong.
    pub fn usage(message: impl ToString, hint: &str) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "usage", message, hint)
    }

    /// There is no such thing.
    pub fn not_found(message: impl ToString, hint: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message, hint)
    }

    /// Something outside this node does not answer.
    pub fn unreachable(message: impl ToString, hint: &str) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, "unreachable", message, hint)
    }

    /// Not enough money.
    pub fn funds(message: impl ToString, hint: &str) -> Self {
        Self::new(StatusCode::PAYMENT_REQUIRED, "funds", message, hint)
    }

    /// Something does not hold.
    pub fn verification(message: impl ToString, hint: &str) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "verification", message, hint)
    }

    /// This node failed.
    pub fn internal(message: impl ToString) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message, "look at the node's log")
    }

    /// The token is missing or wrong.
    pub fn unauthorised() -> Self {
        let hint = "send the token of api.json in the node's folder as a bearer token";
        Self::new(StatusCode::UNAUTHORIZED, "usage", "the request carries no valid token", hint)
    }

    /// Whether it is about the token.
    pub(super) fn is_unauthorised(&self) -> bool {
        self.status == StatusCode::UNAUTHORIZED
    }

    /// The error as JSON.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        json!({"error": {"code": self.code, "message": self.message, "hint": self.hint}})
    }
}

impl ApiError {
    /// Its kind: `usage`, `not_found`, `unreachable`, `funds`, `verification`, `internal` and the like.
    pub const fn code(&self) -> &'static str {
        self.code
    }

    /// What is wrong and what to do, in one line.
    pub fn sentence(&self) -> String {
        if self.hint.is_empty() { self.message.clone() } else { format!("{}; {}", self.message, self.hint) }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(self.to_json())).into_response()
    }
}

impl From<Stopped> for ApiError {
    fn from(stopped: Stopped) -> Self {
        Self::unreachable(stopped, "start it again with tributary up")
    }
}

impl From<JournalError> for ApiError {
    fn from(error: JournalError) -> Self {
        Self::internal(error)
    }
}

impl From<SettleError> for ApiError {
    fn from(error: SettleError) -> Self {
        match &error {
            SettleError::NoChain => {
                Self::usage(error, "start the node with --serve-chain, or join a network that has a chain")
            }
            SettleError::Chain(ChainError::ChainDown { .. }) => {
                Self::unreachable(error, "nothing was lost; try again when the node that serves the chain is back")
            }
            SettleError::Chain(ChainError::InsufficientFunds { .. } | ChainError::InsufficientGas { .. }) => {
                Self::funds(error, "have OPEN sent to the address that tributary wallet show prints")
            }
            SettleError::NotFunded { .. } => Self::funds(error, "workers redeem their vouchers first"),
            SettleError::Chain(_) | SettleError::Queue(_) | SettleError::Overflow | SettleError::ForeignEpoch(_) => {
                Self::internal(error)
            }
        }
    }
}
