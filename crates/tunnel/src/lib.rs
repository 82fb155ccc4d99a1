//! The road between agents and hubs: certificates, the dialled connection, and HTTP/2 turned round on it.
//!
//! An agent dials ([`dial`]), asks for a tunnel, and then serves HTTP/2 on the connection it made; the
//! hub ([`agents`]) is the client on it. Nothing has to reach the agent from outside. What the agent brings by itself
//! goes over a connection of its own ([`line`]).

pub mod agents;
mod coalesce;
pub mod connect;
pub mod dial;
mod heard;
pub mod identity;
pub mod line;
pub mod policy;
pub mod protocol;
mod serve;
mod whole;

pub use agents::{AgentKey, AgentState, Agents, Ask, Lane, RequestError, To, TunnelBody};
pub use connect::{Connector, HubUrl, Proxies};
pub use dial::{DialConfig, DialMetrics, FromHub, Hello, HubStatus, OnLost, Tunnels};
pub use line::{Line, LineError};
pub use protocol::{AGENT_SAYS, Body, TUNNEL_PATH, Timings};
pub use serve::Handler;
pub use whole::Whole;

#[cfg(test)]
mod tests;
