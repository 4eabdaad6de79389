//! Orders of shots for ensembles.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

/// Prompt ensembling: several prompts with the same shots in different orders, whose probabilities are averaged (Flamingo,
/// appendix C.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ensemble {
    /// Number of orders; no more than there are.
    pub permutations: NonZeroUsize,
    /// Seed of all orders but the first.
    pub seed: u64,
}

impl Default for Ensemble {
    /// Returns one prompt, with the shots in the given order.
    fn default() -> Self {
        Self { permutations: NonZeroUsize::MIN, seed: 0 }
    }
}

impl Ensemble {
    /// Returns different orders of `shots` shots. The first one is 0, 1, 2, …
    pub fn orders(self, shots: usize) -> Vec<Vec<usize>> {
        permutations(shots, self.permutations.get(), self.seed)
    }
}

/// Returns `count` different orders of `n` shots, or all `n!` if there are fewer. The first one is 0, 1, 2, …; the others are
/// random and depend on `seed` alone.
fn permutations(n: usize, count: usize, seed: u64) -> Vec<Vec<usize>> {
    let all = (1..=n).try_fold(1_usize, usize::checked_mul).unwrap_or(usize::MAX);
    let count = count.min(all);
    let mut order: Vec<usize> = (0..n).collect();
    let mut found = BTreeSet::new();
    let mut orders = Vec::with_capacity(count);
    let mut random = StdRng::seed_from_u64(seed);
    // Orders that came before are drawn again. To find all n! takes about n! ln(n!) draws, and n! is at most `count` then.
    while orders.len() < count {
        if found.insert(order.clone()) {
            orders.push(order.clone());
        }
        order.shuffle(&mut random);
    }
    orders
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_different_orders(orders: &[Vec<usize>], n: usize) {
        let different: BTreeSet<_> = orders.iter().collect();
        assert_eq!(different.len(), orders.len());
        for order in orders {
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..n).collect::<Vec<_>>());
        }
    }

    #[test]
    fn orders_are_different_and_at_most_all() {
        for (n, count, expected) in
            [(0, 3, 1), (1, 3, 1), (2, 6, 2), (3, 6, 6), (3, 5, 5), (5, 120, 120), (32, 6, 6), (4, 0, 0)]
        {
            let orders = permutations(n, count, 7);
            assert_eq!(orders.len(), expected, "{n} shots, {count} orders");
            assert_different_orders(&orders, n);
        }
    }

    #[test]
    fn seed_decides_all_but_the_first() {
        let orders = |seed| permutations(32, 4, seed);
        assert_eq!(orders(1), orders(1));
        assert_ne!(orders(1)[1..], orders(2)[1..]);
        assert_eq!(orders(1)[0], orders(2)[0]);
    }
}
