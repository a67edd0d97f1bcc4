//! One table of SQLSTATEs for the code, the protocols and the documentation.

use std::fmt;

macro_rules! states {
    ($($name:ident = $code:literal, $text:literal;)*) => {
        /// A five-character SQLSTATE. Only codes of the table exist.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum SqlState { $(#[doc = $text] $name,)* }

        impl SqlState {
            /// Every code with its condition, in the order of the codes.
            pub const TABLE: &'static [(SqlState, &'static str, &'static str)] =
                &[$((SqlState::$name, $code, $text),)*];

            /// The five characters.
            pub fn code(self) -> &'static str {
                match self { $(SqlState::$name => $code,)* }
            }

            /// The code's entry, if the table has it.
            pub fn from_code(code: &str) -> Option<SqlState> {
                match code { $($code => Some(SqlState::$name),)* _ => None }
            }
        }
    };
}

states! {
    ProtocolViolation = "08P01", "a message broke the protocol";
    FeatureNotSupported = "0A000", "not supported yet";
    CardinalityViolation = "21000", "a subquery or ON CONFLICT met a row more than once";
    DataException = "22000", "a value does not fit, such as a vector of another dimension";
    StringTooLong = "22001", "a string is longer than its type allows";
    NumericOutOfRange = "22003", "a number is out of its type's range";
    NullValueNotAllowed = "22004", "a NULL where a value is needed";
    DatetimeFormat = "22007", "not a date or time";
    DatetimeOverflow = "22008", "a date or time is out of range";
    InvalidTimeZoneDisplacement = "22009", "a time zone's offset is out of range";
    SubstringError = "22011", "a substring of negative length";
    DivisionByZero = "22012", "division by zero";
    InvalidFrameOffset = "22013", "the offset of a window frame is NULL or negative";
    InvalidNtileArgument = "22014", "ntile of no group";
    IntervalFieldOverflow = "22015", "an interval is out of range";
    InvalidNthValueArgument = "22016", "nth_value counts from 1";
    InvalidUseOfEscape = "2200C", "an escape character where it means nothing";
    InvalidEscape = "22025", "an invalid escape sequence";
    CharacterNotInRepertoire = "22021", "bytes that are not UTF-8, or a NUL in text";
    InvalidParameterValue = "22023", "an option or argument is unknown or out of range";
    InvalidRegularExpression = "2201B", "a pattern that is no regular expression";
    InvalidLogarithmArgument = "2201E", "the logarithm of zero or less";
    InvalidPowerArgument = "2201F", "a root or power that is no real number";
    InvalidWidthBucketArgument = "2201G", "width_bucket with no buckets or equal bounds";
    InvalidRowCount = "2201W", "LIMIT is negative";
    InvalidRowOffset = "2201X", "OFFSET is negative";
    InvalidTextRepresentation = "22P02", "text that is not a value of the type";
    InvalidBinaryRepresentation = "22P03", "bytes that are not a value of the type";
    BadCopyFormat = "22P04", "COPY data that does not follow the format";
    ArraySubscriptError = "2202E", "a byte or bit by a place that is not there";
    UntranslatableCharacter = "22P05", "a character that text cannot hold";
    NotNullViolation = "23502", "a NULL in a NOT NULL column";
    UniqueViolation = "23505", "the key exists already";
    ActiveTransaction = "25001", "not allowed in this state of the session";
    ReadOnly = "25006", "the node is read-only after a failed write, until it is restarted";
    InvalidStatementName = "26000", "no such prepared statement";
    InvalidAuthorization = "28000", "the connection is not allowed";
    InvalidCatalogName = "3D000", "no such database";
    InvalidCursorName = "34000", "no such portal";
    SerializationFailure = "40001", "concurrent statements kept each other from finishing";
    SyntaxError = "42601", "the statement does not parse";
    InsufficientPrivilege = "42501", "not permitted";
    CannotCoerce = "42846", "no such cast";
    GroupingError = "42803", "a column must be grouped or aggregated";
    WindowingError = "42P20", "a window function is misplaced";
    DatatypeMismatch = "42804", "an expression has the wrong type";
    IndeterminateDatatype = "42P18", "the type of a parameter cannot be told";
    UndefinedObject = "42704", "no such type, index or stream";
    UndefinedColumn = "42703", "no such column";
    UndefinedFunction = "42883", "no such function or operator";
    AmbiguousFunction = "42725", "several functions or operators fit equally well";
    UndefinedTable = "42P01", "no such collection";
    UndefinedParameter = "42P02", "no such parameter";
    DuplicateColumn = "42701", "the column is named twice";
    DuplicateTable = "42P07", "the relation exists already";
    DuplicateObject = "42710", "the object exists already";
    DuplicatePreparedStatement = "42P05", "the prepared statement exists already";
    DuplicateCursor = "42P03", "the portal exists already";
    AmbiguousColumn = "42702", "the column's name is ambiguous";
    DuplicateAlias = "42712", "the table's name is given twice";
    InvalidRecursion = "42P19", "the recursive reference stands where it must not";
    InvalidColumnReference = "42P10", "the column cannot be referenced here";
    InvalidTableDefinition = "42P16", "the definition of a relation contradicts itself";
    WrongObjectType = "42809", "the object is of another kind";
    DiskFull = "53100", "the disk is full; reads go on";
    OutOfMemory = "53200", "the statement's memory is used up";
    TooManyConnections = "53300", "too many connections";
    ProgramLimitExceeded = "54000", "the statement exceeds a limit";
    StatementTooComplex = "54001", "the statement is nested too deeply or has too many terms";
    TooManyColumns = "54011", "too many columns";
    TooManyArguments = "54023", "too many arguments of a function";
    DependentObjectsStillExist = "2BP01", "other objects depend on the object";
    ObjectNotInPrerequisiteState = "55000", "not possible in the object's present state";
    ObjectInUse = "55006", "the object is in use";
    QueryCanceled = "57014", "cancelled, or out of time";
    AdminShutdown = "57P01", "the server is shutting down";
    CannotConnectNow = "57P03", "the server is not accepting requests now";
    IoError = "58030", "an I/O error; the outcome of a write is unknown";
    SnapshotTooOld = "72000", "the history that the statement reads has been trimmed";
    Internal = "XX000", "an internal error";
    DataCorrupted = "XX001", "stored bytes failed their check";
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_five_characters_and_unique() {
        let mut seen = std::collections::BTreeSet::new();
        for (state, code, text) in SqlState::TABLE {
            assert_eq!(code.len(), 5);
            assert!(seen.insert(*code), "{code} twice");
            assert!(!text.is_empty());
            assert_eq!(SqlState::from_code(code), Some(*state));
        }
    }
}
