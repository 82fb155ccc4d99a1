//! `/notifications`: what a person at the page should know, once or as it changes.

use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use tokio::sync::{broadcast, mpsc};

use super::Reply;
use crate::App;
use crate::json;
use crate::notifications::Notification;
use crate::stream;

/// Events that wait for a slow client.
const EVENTS_WAITING: usize = 4;

/// `/notifications`
pub(super) async fn list(State(app): State<App>) -> Reply {
    let notifications = app.state.notifications.list();
    Reply::new(|out| json::array(out, &notifications, write))
}

/// `/notifications/live`: server-sent events, first of what holds, then of what changes. 204 when too many
/// listen already: a browser does not come back then.
pub(super) async fn live(State(app): State<App>) -> Response {
    let Some((now, mut changes)) = app.state.notifications.listen() else {
        return StatusCode::NO_CONTENT.into_response();
    };
    let (sender, events) = mpsc::channel(EVENTS_WAITING);
    let first: Vec<u8> = now.iter().flat_map(event).collect();
    tokio::spawn(async move {
        loop {
            let change = tokio::select! {
                change = changes.recv() => change,
                () = sender.closed() => return,
            };
            match change {
                Ok(change) => {
                    if sender.send(Ok(event(&change).into())).await.is_err() {
                        return;
                    }
                }
                // it asks for the list when it comes back
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    });
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
    (headers, stream::body(Bytes::from(first), events)).into_response()
}

fn event(notification: &Notification) -> Vec<u8> {
    let mut out = b"data: ".to_vec();
    write(&mut out, notification);
    out.extend_from_slice(b"\n\n");
    out
}

fn write(out: &mut Vec<u8>, notification: &Notification) {
    let mut entry = json::Object::new(out);
    entry.text("text", notification.notice.text());
    entry.time("date", Some(notification.since_ms));
    entry.boolean("active", notification.active);
    entry.end();
}
