//! Every route of the API, and what it asks of a caller: the router is made from this table. I/O (HTTP types).

use std::sync::Arc;

use axum::http::Method;
use axum::routing::{MethodRouter, delete, get, post, put};

use super::{
    Shared, connect, events, framework, instances, mrredis, openapi, operator, passwords, placement, requests,
};
use crate::access::Level;

/// What a caller needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing: whoever watches the process has no token.
    Nothing,
    /// A token, whatever it allows: what is told is what it may read.
    Token,
    /// A token that allows this with the instance, or the secret, that the path names.
    Named(Level),
    /// A token that allows this with each instance that the body names.
    InBody(Level),
    /// A token that allows this with all instances.
    All(Level),
}

pub(super) struct Route {
    pub method: Method,
    pub path: &'static str,
    pub needs: Needs,
    pub handler: MethodRouter<Arc<Shared>>,
}

/// The routes: how they are asked for, and what they need.
pub fn routes() -> Vec<(Method, &'static str, Needs)> {
    table().into_iter().map(|route| (route.method, route.path, route.needs)).collect()
}

pub(super) fn table() -> Vec<Route> {
    use Level::{Admin, Read, Write};
    use Needs::{All, InBody, Named, Nothing, Token};
    let get_ = |path, needs, handler| Route { method: Method::GET, path, needs, handler };
    let post_ = |path, needs, handler| Route { method: Method::POST, path, needs, handler };
    let put_ = |path, needs, handler| Route { method: Method::PUT, path, needs, handler };
    let delete_ = |path, needs, handler| Route { method: Method::DELETE, path, needs, handler };
    vec![
        get_("/v1/instances", Token, get(instances::list)),
        post_("/v1/instances", InBody(Write), post(instances::apply)),
        get_("/v1/instances/{name}", Named(Read), get(instances::get)),
        put_("/v1/instances/{name}", Named(Write), put(instances::put)),
        delete_("/v1/instances/{name}", Named(Admin), delete(requests::delete)),
        post_("/v1/instances/{name}/recreate", Named(Admin), post(requests::recreate)),
        post_("/v1/instances/{name}/failover", Named(Write), post(requests::failover)),
        get_("/v1/instances/{name}/plan", Named(Read), get(operator::plan)),
        get_("/v1/instances/{name}/events", Named(Read), get(events::of_instance)),
        get_("/v1/instances/{name}/connect", Named(Read), get(connect::connect)),
        get_("/v1/instances/{name}/password", Named(Write), get(passwords::show)),
        post_("/v1/instances/{name}/password/rotate", Named(Admin), post(passwords::rotate)),
        get_("/v1/instances/{name}/placement", Named(Read), get(placement::placement)),
        put_("/v1/secrets/{name}", Named(Admin), put(passwords::put_secret)),
        delete_("/v1/secrets/{name}", Named(Admin), delete(passwords::delete_secret)),
        get_("/v1/events", Token, get(events::of_all)),
        get_("/v1/operator", Token, get(operator::operator)),
        get_("/v1/framework", All(Read), get(framework::show)),
        post_("/v1/framework/reset", All(Admin), post(framework::reset)),
        get_("/v1/schema", Token, get(openapi::serve_schema)),
        get_("/openapi.json", Token, get(openapi::serve_openapi)),
        get_("/healthz", Nothing, get(operator::healthz)),
        get_("/readyz", Nothing, get(operator::readyz)),
        get_("/metrics", Token, get(operator::metrics)),
        post_("/v1/CREATE/{name}/{capacity}/{masters}/{slaves}", Named(Write), post(mrredis::create)),
        delete_("/v1/DELETE/{name}", Named(Admin), delete(mrredis::delete)),
        get_("/v1/STATUS", Token, get(mrredis::status_all)),
        get_("/v1/STATUS/", Token, get(mrredis::status_all)),
        get_("/v1/STATUS/{name}", Named(Read), get(mrredis::status)),
        put_("/v1/UPDATE/{name}/Memory/{capacity}", Named(Write), put(mrredis::update_memory)),
        put_("/v1/UPDATE/{name}/SLAVES/{slaves}", Named(Write), put(mrredis::update_slaves)),
    ]
}
