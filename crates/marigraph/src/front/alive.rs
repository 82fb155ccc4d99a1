//! TCP keep-alive: a connection whose other end has gone without a word, behind a firewall that has forgotten it for
//! instance, ends in about 45 s, also while a request is held on it (a PushProx poll, a stream of notifications).
//!
//! HTTP/2 has pings of its own; this is for the rest.

use std::io;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::TcpStream;

/// Silence after which the system asks for a sign of life. Source: PushProx, `util/proxy.go`, for this and the others.
const IDLE: Duration = Duration::from_secs(30);
/// Between two questions without an answer.
const INTERVAL: Duration = Duration::from_secs(5);
/// Questions without an answer until the connection ends.
const PROBES: u32 = 3;

/// Has the system look after `stream`.
pub(super) fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, IDLE)?;
    sockopt::set_tcp_keepintvl(stream, INTERVAL)?;
    Ok(sockopt::set_tcp_keepcnt(stream, PROBES)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_system_is_told() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let (dialled, accepted) =
            tokio::join!(TcpStream::connect(listener.local_addr().expect("an address")), listener.accept());
        let (_dialled, (stream, _)) = (dialled.expect("a connection"), accepted.expect("a connection"));
        keep_alive(&stream).expect("a socket that can be looked after");
        assert!(sockopt::socket_keepalive(&stream).expect("an option"));
        assert_eq!(sockopt::tcp_keepidle(&stream).expect("an option"), IDLE);
        assert_eq!(sockopt::tcp_keepintvl(&stream).expect("an option"), INTERVAL);
        assert_eq!(sockopt::tcp_keepcnt(&stream).expect("an option"), PROBES);
    }
}
