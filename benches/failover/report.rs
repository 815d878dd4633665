//! The table at the end, and which aims are met. I/O (it prints).

use std::fmt::Write as _;
use std::time::Duration;

use super::split::Split;
use super::{KILL, LIMIT, SPLIT, STOP, STOP_FAST};
use crate::common::{median, ms, quantile};

/// The rounds of one case by one system.
pub struct Series {
    /// Of the system, and its setting.
    pub name: &'static str,
    written: Vec<Duration>,
    known: Vec<Duration>,
    /// How much later than the first write the address was known.
    later: Vec<Duration>,
    never: usize,
    /// What splits tell besides.
    pub splits: Vec<Split>,
}

impl Series {
    /// None yet.
    pub fn of(name: &'static str) -> Series {
        Series { name, written: vec![], known: vec![], later: vec![], never: 0, splits: vec![] }
    }

    /// A round: from the fault to the first write, and to the known address; none: not in time.
    pub fn push(&mut self, written: Option<Duration>, known: Option<Duration>) {
        self.never += usize::from(written.is_none() || known.is_none());
        let (written, known) = (written.unwrap_or(LIMIT), known.unwrap_or(LIMIT));
        self.written.push(written);
        self.known.push(known);
        self.later.push(known.saturating_sub(written));
    }

    /// How many rounds there were.
    pub fn count(&self) -> usize {
        self.written.len()
    }

    fn splits<T>(&self, part: fn(&Split) -> T) -> Vec<T> {
        self.splits.iter().map(part).collect()
    }
}

/// All cases; the first series of each is ours.
#[derive(Default)]
pub struct Report {
    cases: Vec<(&'static str, Vec<Series>)>,
}

impl Report {
    /// Adds a case.
    pub fn add(&mut self, case: &'static str, series: Vec<Series>) {
        self.cases.push((case, series));
    }

    /// Prints the table, and the aims below it.
    pub fn print(&self) {
        let mut text = format!(
            "\n{:<58} {:>6} {:>9} {:>9} {:>9} {:>9}  Sentinel / ours\n",
            "from the fault to ...", "rounds", "p50", "p90", "p99", "max"
        );
        for (case, all) in &self.cases {
            rows(&mut text, &format!("{case}: first write"), all, |series| series.written.clone());
            rows(&mut text, &format!("{case}: address known"), all, |series| series.known.clone());
            if *case == SPLIT {
                split_rows(&mut text, all);
            }
        }
        let _ = writeln!(text, "\n{:<58} {:>14} {:>14}  met", "aim", "", "measured"); // To a String.
        self.cases.iter().for_each(|(case, all)| aims(&mut text, case, all));
        let never: usize = self.cases.iter().flat_map(|(_, all)| all).map(|series| series.never).sum();
        let _ = writeln!(text, "\nRounds without a new master within {} s: {never}.", LIMIT.as_secs()); // To a String.
        print!("{text}");
    }
}

fn rows(text: &mut String, what: &str, all: &[Series], part: fn(&Series) -> Vec<Duration>) {
    let ours = median(&part(&all[0]));
    for (i, series) in all.iter().enumerate() {
        let values = part(series);
        let at = |part| ms(quantile(&values, part));
        let ratio = median(&values).as_secs_f64() / ours.as_secs_f64();
        let ratio = if i == 0 { String::new() } else { format!("{ratio:.1}") };
        let name = format!("{what}: {}", series.name);
        let (p50, p90, p99, max) = (at(0.5), at(0.9), at(0.99), at(1.0));
        let rounds = values.len();
        let _ = writeln!(text, "{name:<58} {rounds:>6} {p50:>9} {p90:>9} {p99:>9} {max:>9}  {ratio}"); // To a String.
    }
}

fn split_rows(text: &mut String, all: &[Series]) {
    rows(text, "split: the old master takes writes for", all, |series| series.splits(|split| split.window));
    rows(text, "split: from healing to demoted", all, demoted);
    for series in all {
        let sum = |part: fn(&Split) -> usize| series.splits(part).iter().sum::<usize>();
        let _ = writeln!(
            text,
            "split: writes: {}: {} acknowledged after the split, {} lost; {} confirmed by WAIT 1, {} of them lost",
            series.name,
            sum(|split| split.acknowledged),
            sum(|split| split.lost),
            sum(|split| split.confirmed),
            sum(|split| split.confirmed_lost),
        ); // To a String.
    }
}

fn demoted(series: &Series) -> Vec<Duration> {
    series.splits(|split| split.demoted.unwrap_or(LIMIT))
}

fn aims(text: &mut String, case: &str, all: &[Series]) {
    let ours = &all[0];
    let mut aim = |what: &str, value: Duration, most: u64| {
        let most = Duration::from_millis(most);
        line(text, &format!("{case}: {what}"), &format!("<= {}", ms(most)), &ms(value), value <= most);
    };
    match case {
        KILL => {
            aim("first write, p50", median(&ours.written), 20);
            aim("first write, p99", quantile(&ours.written, 0.99), 60);
            aim("address known later than that, p50", median(&ours.later), 10);
            aim("address known later than that, p99", quantile(&ours.later, 0.99), 10);
            let ratio = median(&all[1].written).as_secs_f64() / median(&ours.written).as_secs_f64();
            let what = format!("{case}: shorter than {}, p50", all[1].name);
            line(text, &what, ">= 20 times", &format!("{ratio:.1} times"), ratio >= 20.0);
        }
        STOP_FAST => {
            aim("first write, p50", median(&ours.written), 150);
            aim("first write, p99", quantile(&ours.written, 0.99), 150);
        }
        SPLIT => {
            aim("the old master takes writes for, max", quantile(&ours.splits(|split| split.window), 1.0), 2000);
            aim("from healing to demoted, max", quantile(&demoted(ours), 1.0), 200);
            let lost: usize = ours.splits(|split| split.confirmed_lost).iter().sum();
            line(text, &format!("{case}: confirmed writes lost"), "0", &lost.to_string(), lost == 0);
        }
        STOP => {} // No aim: what it takes follows from the promise, and is in the status.
        _ => unreachable!("all cases are named above"),
    }
}

fn line(text: &mut String, what: &str, aim: &str, value: &str, met: bool) {
    let met = if met { "yes" } else { "NO" };
    let _ = writeln!(text, "{what:<58} {aim:>14} {value:>14}  {met}"); // To a String.
}
