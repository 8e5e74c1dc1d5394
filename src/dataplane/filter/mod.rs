//! The filter room: steps on requests and responses.
