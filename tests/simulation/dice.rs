//! Chance, from a seed: the same seed gives the same history. Pure.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

pub enum Dice {
    Chance(Box<StdRng>),
    /// Nothing is left to chance: always the first, and never what is only likely.
    First,
}

/// Where chance plays no part, a moment can be lived through more than once.
impl Clone for Dice {
    fn clone(&self) -> Dice {
        match self {
            Dice::Chance(_) => unreachable!("chance does not repeat itself"),
            Dice::First => Dice::First,
        }
    }
}

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice::Chance(Box::new(StdRng::seed_from_u64(seed)))
    }

    /// 0 to `n - 1`.
    pub fn below(&mut self, n: usize) -> usize {
        match self {
            Dice::Chance(dice) if n > 1 => dice.random_range(0..n),
            _ => 0,
        }
    }

    pub fn percent(&mut self, chance: usize) -> bool {
        matches!(self, Dice::Chance(_)) && self.below(100) < chance
    }

    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}
