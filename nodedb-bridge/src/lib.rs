//! What crosses the planes, and nothing else (P1).
//!
//! `nodedb-control`, `nodedb-data` and `nodedb-event` never import one another. A request goes
//! from a control worker to a core over a bounded ring ([`request`], [`wiring`]); its answer comes
//! back as a stream with credits ([`reply`]); a durable write leaves its core as an event
//! ([`event`]); what a core needs of control it asks by an [`upcall`]; services that one plane
//! offers another are traits in [`port`]; how its threads share processors is in [`schedule`]. The shapes of plans are in [`plan`], what each engine can
//! do is declared in [`op`].

pub mod account;
pub mod clock;
pub mod event;
pub mod expression;
pub mod op;
pub mod plan;
pub mod port;
pub mod reply;
pub mod request;
pub mod schedule;
pub mod upcall;
pub mod wake;
pub mod wiring;
