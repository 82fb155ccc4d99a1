//! The road between agents and hubs: certificates, the dialled connection, and HTTP/2 turned round on it.

pub mod identity;
