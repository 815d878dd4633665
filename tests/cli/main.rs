//! The command line, run as users run it, against a toy of the operator's API. I/O.

// `json!` values and texts that are made in place read better without `&`.
#![allow(clippy::needless_pass_by_value)]

mod changing;
mod failing_over;
mod fake;
mod heads;
mod readme;
mod real;
mod run;
mod sample;
mod scaling;
mod settings;
mod showing;
