//! What is said of several runs.

/// The smallest sample that at least so many percent are not above; 0 of none.
pub fn at(samples: &[f64], percent: usize) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

/// The median.
pub fn median(samples: &[f64]) -> f64 {
    at(samples, 50)
}

/// How many there are, and between what they lie.
pub fn spread(samples: &[f64]) -> String {
    let (fastest, slowest) = (at(samples, 0), at(samples, 100));
    format!("runs={} fastest={fastest:.3} slowest={slowest:.3}", samples.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_samples_are_not_above_the_median() {
        assert_eq!(median(&[5.0, 1.0, 3.0]), 3.0);
        assert_eq!(median(&[4.0, 1.0]), 1.0);
        assert_eq!((at(&[2.0, 1.0], 99), at(&[], 50)), (2.0, 0.0));
        assert_eq!(spread(&[2.0, 1.0]), "runs=2 fastest=1.000 slowest=2.000");
    }
}
