//! Offers and their resources. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Timestamp;

/// A part of an offer, with what is needed to echo it in a launch: Mesos wants each piece back with
/// its own reservations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Piece {
    /// `cpus`, `mem`, `disk`, `ports`, ...
    pub name: String,
    /// How much.
    pub amount: Amount,
    /// The `reservations` of the offered resource as Mesos sent them; `null` when unreserved.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub reservations: serde_json::Value,
}

/// The amount of a [`Piece`]. Scalars are in thousandths (Mesos keeps three decimals), so that
/// sums are exact: 100 is 0.1 CPU, 64000 is 64 MiB.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Amount {
    /// Thousandths of the unit.
    Milli(u64),
    /// Inclusive ranges.
    Ranges(Vec<(u16, u16)>),
}

/// One offer of one agent to our role.
#[derive(Clone, Debug, PartialEq)]
pub struct Offer {
    /// Offer id.
    pub id: String,
    /// Agent that has the resources.
    pub agent_id: String,
    /// The agent's hostname: not unique, but part of a machine's identity.
    pub hostname: String,
    /// The agent's advertised IP address: where the node will be reached.
    pub host: String,
    /// The role that the offer was allocated to.
    pub role: String,
    /// Attributes as text; scalars and ranges in Mesos' notation. Fault domain as
    /// `@region` and `@zone`, and without the sign where no attribute has that name.
    pub attributes: BTreeMap<String, String>,
    /// When a maintenance window of this agent starts, if one is scheduled.
    pub unavailable_from: Option<Timestamp>,
    /// What is offered. Pieces on revocable, volume or foreign-disk resources are left out.
    pub pieces: Vec<Piece>,
}
