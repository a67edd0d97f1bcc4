//! The relational executor.

use crate::bind::Query;
use crate::plan::Environment;

/// A query for the relational executor, parameters filled in.
pub struct RelationalPlan {
    pub(crate) query: Query,
    pub(crate) environment: Environment,
}

impl RelationalPlan {
    pub(crate) fn new(query: Query, environment: Environment) -> RelationalPlan {
        RelationalPlan { query, environment }
    }
}
