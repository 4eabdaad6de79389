//! Minimum of a smooth convex function by L-BFGS (Nocedal and Wright, Numerical Optimization, algorithm 7.5).

use std::collections::VecDeque;

use super::vectors::{add_scaled, dot};

/// Remembered steps.
const MEMORY: usize = 10;
/// Greatest number of steps.
const MOST_STEPS: usize = 1000;
/// Greatest value of the gradient at a minimum.
const TOLERANCE: f64 = 1e-7;

/// Difference between two points, and between their gradients.
struct Step {
    points: Vec<f64>,
    gradients: Vec<f64>,
    product: f64,
}

/// Searches from `start` until no value of the gradient is above [`TOLERANCE`]. Also ends after [`MOST_STEPS`] steps, and where no
/// step leads down in double precision. Returns the lowest point found. `function` writes its gradient at a point and returns its
/// value.
pub(super) fn minimise(start: Vec<f64>, mut function: impl FnMut(&[f64], &mut [f64]) -> f64) -> Vec<f64> {
    let mut at = start;
    let mut gradient = vec![0.0; at.len()];
    let mut value = function(&at, &mut gradient);
    let mut steps: VecDeque<Step> = VecDeque::with_capacity(MEMORY);
    let (mut next, mut next_gradient) = (at.clone(), gradient.clone());
    for _ in 0..MOST_STEPS {
        if gradient.iter().all(|g| g.abs() <= TOLERANCE) {
            break;
        }
        let direction = direction(&gradient, &steps);
        let slope = dot(&gradient, &direction);
        let mut length =
            if steps.is_empty() { (1.0 / dot(&gradient, &gradient).sqrt()).min(1.0) } else { 1.0 };
        let next_value = loop {
            next.copy_from_slice(&at);
            add_scaled(&mut next, length, &direction);
            let found = function(&next, &mut next_gradient);
            if found <= value + 1e-4 * length * slope {
                break found;
            }
            length /= 2.0;
            if length < 1e-12 {
                return at;
            }
        };
        remember(&mut steps, difference(&next, &at), difference(&next_gradient, &gradient));
        std::mem::swap(&mut at, &mut next);
        std::mem::swap(&mut gradient, &mut next_gradient);
        value = next_value;
    }
    at
}

fn difference(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

/// Keeps a step whose curvature is positive, so that the direction leads down.
fn remember(steps: &mut VecDeque<Step>, points: Vec<f64>, gradients: Vec<f64>) {
    let product = dot(&points, &gradients);
    if product > 1e-12 * dot(&gradients, &gradients) {
        if steps.len() == MEMORY {
            steps.pop_front();
        }
        steps.push_back(Step { points, gradients, product });
    }
}

/// The gradient times the negative inverse of the Hessian, as the steps estimate it.
fn direction(gradient: &[f64], steps: &VecDeque<Step>) -> Vec<f64> {
    let mut direction: Vec<f64> = gradient.iter().map(|g| -g).collect();
    let mut factors = Vec::with_capacity(steps.len());
    for step in steps.iter().rev() {
        let factor = dot(&step.points, &direction) / step.product;
        add_scaled(&mut direction, -factor, &step.gradients);
        factors.push(factor);
    }
    if let Some(last) = steps.back() {
        let scale = last.product / dot(&last.gradients, &last.gradients);
        direction.iter_mut().for_each(|d| *d *= scale);
    }
    for (step, factor) in steps.iter().zip(factors.iter().rev()) {
        let back = dot(&step.gradients, &direction) / step.product;
        add_scaled(&mut direction, factor - back, &step.points);
    }
    direction
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (x - 3)^2 + 100 (y + 1)^2 + 0.01 z^2, from far away.
    #[test]
    fn finds_the_minimum_of_a_quadratic_with_unequal_curvatures() {
        let found = minimise(vec![50.0, 70.0, -90.0], |at, gradient| {
            let (x, y, z) = (at[0] - 3.0, at[1] + 1.0, at[2]);
            gradient.copy_from_slice(&[2.0 * x, 200.0 * y, 0.02 * z]);
            x * x + 100.0 * y * y + 0.01 * z * z
        });
        let expected = [3.0, -1.0, 0.0];
        assert!(found.iter().zip(expected).all(|(a, e)| (a - e).abs() < 1e-5), "{found:?}");
    }

    #[test]
    fn search_without_a_minimum_ends() {
        let found = minimise(vec![0.0], |at, gradient| {
            gradient[0] = -1.0;
            -at[0]
        });
        assert!(found[0] > 0.0);
    }
}
