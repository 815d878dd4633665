//! The command line, run as users run it, against a toy of the operator's API. I/O.

mod changing;
mod fake;
mod real;
mod run;
mod sample;
mod settings;
mod showing;
