//! Labels with a fixed set of values, and counters by label.

use std::array;
use std::marker::PhantomData;

/// A label of a metric: an enum whose every value is known, so that series cannot grow without bound.
pub trait Label: Copy + 'static {
    /// Every value, in the order of their numbers.
    const VALUES: &'static [Self];

    /// The value in `/metrics`.
    fn text(self) -> &'static str;

    /// Its place in [`Label::VALUES`].
    fn index(self) -> usize;
}

/// Declares an enum that is a [`Label`].
macro_rules! labels {
    ($(#[$outer:meta])* $enum:ident { $($(#[$doc:meta])* $name:ident = $label:literal,)* }) => {
        $(#[$outer])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(usize)]
        pub enum $enum { $($(#[$doc])* $name,)* }

        impl $enum {
            /// Every value, in the order of the counters.
            pub const ALL: &'static [$enum] = &[$($enum::$name,)*];

            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The label in `/metrics`.
            pub const fn label(self) -> &'static str {
                match self { $($enum::$name => $label,)* }
            }
        }

        impl $crate::label::Label for $enum {
            const VALUES: &'static [$enum] = $enum::ALL;

            fn text(self) -> &'static str {
                self.label()
            }

            fn index(self) -> usize {
                self as usize
            }
        }
    };
}

/// One `C` for each value of the label `L`, of which there are `N`.
#[derive(Debug)]
pub struct By<L, C, const N: usize> {
    values: [C; N],
    label: PhantomData<L>,
}

impl<L: Label, C: Default, const N: usize> Default for By<L, C, N> {
    fn default() -> Self {
        const { assert!(L::VALUES.len() == N, "N is the number of the label's values") };
        By { values: array::from_fn(|_| C::default()), label: PhantomData }
    }
}

impl<L: Label, C, const N: usize> By<L, C, N> {
    /// The counter of `label`.
    #[inline]
    pub fn of(&self, label: L) -> &C {
        // In range: `default`, the only maker, asserts that there is one for each value.
        &self.values[label.index()]
    }

    /// Each label with its counter.
    pub fn iter(&self) -> impl Iterator<Item = (L, &C)> {
        L::VALUES.iter().copied().zip(&self.values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Counter, DropReason, Phase};

    #[test]
    fn labels_are_numbered_in_order_and_differ() {
        for (i, reason) in DropReason::VALUES.iter().enumerate() {
            assert_eq!(reason.index(), i);
            assert!(reason.text().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'));
        }
        let mut texts: Vec<_> = DropReason::ALL.iter().map(|r| r.label()).collect();
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), DropReason::COUNT);
    }

    #[test]
    fn each_label_has_its_own_counter() {
        let by = By::<Phase, Counter, { Phase::COUNT }>::default();
        by.of(Phase::Mailbox).add(3);
        for (phase, counter) in by.iter() {
            assert_eq!(counter.get(), if phase == Phase::Mailbox { 3 } else { 0 });
        }
    }
}
