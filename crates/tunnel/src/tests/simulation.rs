//! Tunnels over a network that is slow, cut, and healed.
