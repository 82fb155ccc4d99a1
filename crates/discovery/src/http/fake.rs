//! A client that answers what it was told to.

use std::collections::VecDeque;

use parking_lot::Mutex;

use super::{HttpFetch, HttpRequest, HttpResponse};
use crate::BoxFuture;

#[derive(Default)]
pub(crate) struct FakeFetch {
    pub(crate) answers: Mutex<VecDeque<Result<HttpResponse, String>>>,
    pub(crate) asked: Mutex<Vec<String>>,
}

impl FakeFetch {
    pub(crate) fn answer(&self, status: u16, content_type: &str, body: &str) {
        let content_type = content_type.to_owned();
        let body = body.as_bytes().to_vec().into();
        self.answers.lock().push_back(Ok(HttpResponse { status, content_type, body }));
    }
}

impl HttpFetch for FakeFetch {
    fn fetch<'a>(&'a self, request: HttpRequest<'a>) -> BoxFuture<'a, Result<HttpResponse, String>> {
        self.asked.lock().push(format!("{} {:?} {:?}", request.url, request.timeout, request.headers));
        let answer = self.answers.lock().pop_front().unwrap_or_else(|| Err("connection refused".to_owned()));
        Box::pin(async { answer })
    }
}
