//! The one failure that pgwire, HTTP, the native protocol and the SDK all render.

use std::fmt;

use crate::sqlstate::SqlState;

/// Result of everything that a client can be told about.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// An operating error, in PostgreSQL's manner: what happened, the detail, and the fix as hint.
/// Boxed inside, so that a `Result` stays small.
#[derive(Clone, PartialEq, Eq)]
pub struct Failure(Box<Body>);

#[derive(Clone, PartialEq, Eq)]
struct Body {
    code: SqlState,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
    position: Option<u32>,
    retry: bool,
    object: Object,
}

/// What a constraint violation names.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Object {
    pub table: Option<String>,
    pub column: Option<String>,
    pub constraint: Option<String>,
}

impl Failure {
    pub fn new(code: SqlState, message: impl Into<String>) -> Failure {
        let retry = matches!(code, SqlState::SerializationFailure);
        Failure(Box::new(Body {
            code,
            message: message.into(),
            detail: None,
            hint: None,
            position: None,
            retry,
            object: Object::default(),
        }))
    }

    /// Something that is refused until it is supported (Q1).
    pub fn unsupported(what: impl fmt::Display) -> Failure {
        Failure::new(
            SqlState::FeatureNotSupported,
            format!("{what} is not supported"),
        )
    }

    /// A broken expectation inside the server that need not stop the process.
    pub fn internal(message: impl Into<String>) -> Failure {
        Failure::new(SqlState::Internal, message)
    }

    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Failure {
        self.0.detail = Some(detail.into());
        self
    }

    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Failure {
        self.0.hint = Some(hint.into());
        self
    }

    /// `position`: 1-based, in characters of the statement's text, as PostgreSQL counts.
    #[must_use]
    pub fn at(mut self, position: u32) -> Failure {
        self.0.position = Some(position);
        self
    }

    /// The statement may succeed when it is simply run again.
    #[must_use]
    pub fn retryable(mut self) -> Failure {
        self.0.retry = true;
        self
    }

    #[must_use]
    pub fn with_object(mut self, object: Object) -> Failure {
        self.0.object = object;
        self
    }

    pub fn code(&self) -> SqlState {
        self.0.code
    }
    pub fn message(&self) -> &str {
        &self.0.message
    }
    pub fn detail(&self) -> Option<&str> {
        self.0.detail.as_deref()
    }
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }
    pub fn position(&self) -> Option<u32> {
        self.0.position
    }
    pub fn retry(&self) -> bool {
        self.0.retry
    }

    /// Whether the values of rows made a statement fail, not the server or the statement's form:
    /// such a failure is the same for the same rows, whenever and wherever they are looked at.
    pub fn is_of_values(&self) -> bool {
        let code = self.0.code.code();
        ["21", "22", "54"]
            .iter()
            .any(|class| code.starts_with(class))
    }
    pub fn object(&self) -> &Object {
        &self.0.object
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.0.message, self.0.code)
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let b = &self.0;
        write!(f, "Failure({} {:?}", b.code, b.message)?;
        for (name, value) in [("detail", &b.detail), ("hint", &b.hint)] {
            if let Some(value) = value {
                write!(f, ", {name}: {value:?}")?;
            }
        }
        f.write_str(")")
    }
}

impl std::error::Error for Failure {}
