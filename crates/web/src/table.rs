//! The routes and, beside them, a list of what they are: the router cannot tell, and the document of the
//! API and the test that nobody gets in without a credential must not miss one.

use axum::Router;
use axum::handler::Handler;
use axum::routing::{MethodRouter, get, post};

use crate::App;

/// A path and what may be asked of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The path; parts in braces stand for anything.
    pub path: String,
    /// `GET` (which also means `HEAD`), `POST`, `PUT`.
    pub methods: Vec<&'static str>,
}

/// Routes that know their list.
#[derive(Debug)]
pub(crate) struct Table {
    router: Router<App>,
    endpoints: Vec<Endpoint>,
}

impl Table {
    pub(crate) fn new() -> Table {
        Table { router: Router::new(), endpoints: Vec::new() }
    }

    /// `GET path`
    pub(crate) fn get<H: Handler<T, App>, T: 'static>(self, path: &str, handler: H) -> Table {
        self.with(path, &["GET"], get(handler))
    }

    /// `GET path`, and `POST path` with the parameters in a form.
    pub(crate) fn form<H: Handler<T, App>, T: 'static>(self, path: &str, handler: H) -> Table {
        self.with(path, &["GET", "POST"], get(handler.clone()).post(handler))
    }

    /// `POST path`
    pub(crate) fn post<H: Handler<T, App>, T: 'static>(self, path: &str, handler: H) -> Table {
        self.with(path, &["POST"], post(handler))
    }

    /// `POST path` and `PUT path`: what changes something.
    pub(crate) fn change<H: Handler<T, App>, T: 'static>(self, path: &str, handler: H) -> Table {
        self.with(path, &["POST", "PUT"], post(handler.clone()).put(handler))
    }

    pub(crate) fn with(mut self, path: &str, methods: &[&'static str], handlers: MethodRouter<App>) -> Table {
        self.router = self.router.route(path, handlers);
        self.endpoints.push(Endpoint { path: path.to_owned(), methods: methods.to_vec() });
        self
    }

    /// Both.
    pub(crate) fn merge(mut self, other: Table) -> Table {
        self.router = self.router.merge(other.router);
        self.endpoints.extend(other.endpoints);
        self
    }

    /// Puts something around the routes so far.
    pub(crate) fn around(self, wrap: impl FnOnce(Router<App>) -> Router<App>) -> Table {
        Table { router: wrap(self.router), endpoints: self.endpoints }
    }

    pub(crate) fn into_parts(self) -> (Router<App>, Vec<Endpoint>) {
        (self.router, self.endpoints)
    }
}
