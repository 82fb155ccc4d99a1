//! Rules and alerts. This program evaluates none yet: requests are read as Prometheus reads them, and
//! the lists are empty.

use axum::extract::State;

use super::{ApiError, ApiResult, Reply, language};
use crate::App;
use crate::form::{Form, go_quoted, parse_integer};
use crate::work::Patience;

/// `/rules`
pub(super) async fn rules(State(app): State<App>, form: Form) -> ApiResult {
    app.work.search(move |patience| read(&form, patience)).await
}

fn read(form: &Form, patience: &Patience) -> ApiResult {
    language::selectors(form.strict()?, patience, |why| ApiError::bad_data(why))?;
    let kind = form.get("type").to_lowercase();
    if !["", "alert", "record"].contains(&kind.as_str()) {
        return Err(ApiError::parameter("type", format_args!("not supported value {}", go_quoted(&kind))));
    }
    check_boolean(form, "exclude_alerts")?;
    check_paging(form)?;
    Ok(Reply::new(|out| out.extend_from_slice(b"{\"groups\":[]}")))
}

/// The spellings of Go's `strconv.ParseBool`, in lower case.
fn check_boolean(form: &Form, name: &str) -> Result<(), ApiError> {
    let text = form.get(name).to_lowercase();
    if ["", "1", "t", "true", "0", "f", "false"].contains(&text.as_str()) {
        return Ok(());
    }
    let why =
        format!("error converting {name}: strconv.ParseBool: parsing {}: invalid syntax", go_quoted(&text));
    Err(ApiError::parameter(name, why))
}

fn check_paging(form: &Form) -> Result<(), ApiError> {
    let (limit, token) = (form.get("group_limit"), form.get("group_next_token"));
    if limit.is_empty() {
        let why = "group_limit needs to be present in order to paginate over the groups";
        return if token.is_empty() { Ok(()) } else { Err(ApiError::parameter("group_next_token", why)) };
    }
    match parse_integer(limit) {
        Err(why) => {
            let why = why.replacen("strconv.Atoi", "strconv.ParseInt", 1);
            Err(ApiError::parameter(
                "group_limit",
                format_args!("group_limit needs to be a valid number: {why}"),
            ))
        }
        Ok(..=0) => Err(ApiError::parameter("group_limit", "group_limit needs to be greater than 0")),
        Ok(_) if !token.is_empty() => {
            let why = format!("invalid group_next_token '{token}'. were rule groups changed?");
            Err(ApiError::parameter("group_next_token", why))
        }
        Ok(_) => Ok(()),
    }
}

/// `/alerts`
pub(super) async fn alerts() -> Reply {
    Reply::new(|out| out.extend_from_slice(b"{\"alerts\":[]}"))
}

/// `/alertmanagers`
pub(super) async fn alertmanagers() -> Reply {
    Reply::new(|out| out.extend_from_slice(b"{\"activeAlertmanagers\":[],\"droppedAlertmanagers\":[]}"))
}
