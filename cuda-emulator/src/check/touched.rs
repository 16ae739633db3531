//! Which bytes of global memory a launch, copy or fill has touched: what two commands in different streams are compared by.

/// Byte ranges `[start, end)`, ascending and apart from each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// Adds a range that does not begin before the last one.
    fn push(&mut self, start: u64, end: u64) {
        match self.0.last_mut() {
            Some(last) if start <= last.1 => last.1 = end.max(last.1),
            _ => self.0.push((start, end)),
        }
    }

    /// First byte in both.
    fn meets(&self, other: &Ranges) -> Option<u64> {
        let (mut a, mut b) = (self.0.iter().peekable(), other.0.iter().peekable());
        while let (Some(x), Some(y)) = (a.peek(), b.peek()) {
            let start = x.0.max(y.0);
            if start < x.1.min(y.1) {
                return Some(start);
            }
            if x.1 <= y.1 {
                a.next()
            } else {
                b.next()
            };
        }
        None
    }
}

/// How a byte was touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Touch {
    Read,
    Write,
    /// Atomics, volatile and relaxed accesses: not in conflict with each other.
    Strong,
}

/// Bytes read, written, and touched strongly.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Touched {
    read: Ranges,
    written: Ranges,
    strong: Ranges,
}

impl Touched {
    /// Adds `bytes` bytes at `start`, which is not below what was added before in the same way.
    pub(crate) fn add(&mut self, touch: Touch, start: u64, bytes: u64) {
        let ranges = match touch {
            Touch::Read => &mut self.read,
            Touch::Write => &mut self.written,
            Touch::Strong => &mut self.strong,
        };
        ranges.push(start, start + bytes);
    }

    /// Nothing was touched.
    pub(crate) fn is_empty(&self) -> bool {
        self.read.0.is_empty() && self.written.0.is_empty() && self.strong.0.is_empty()
    }

    /// First byte that both touch, at least one of them writing (and not both strongly), and whether `self` and `other` write it.
    pub(crate) fn conflict(&self, other: &Touched) -> Option<(u64, bool, bool)> {
        let found = [
            (&self.written, &other.written, true, true),
            (&self.written, &other.strong, true, true),
            (&self.strong, &other.written, true, true),
            (&self.written, &other.read, true, false),
            (&self.strong, &other.read, true, false),
            (&self.read, &other.written, false, true),
            (&self.read, &other.strong, false, true),
        ];
        found
            .into_iter()
            .find_map(|(a, b, x, y)| a.meets(b).map(|at| (at, x, y)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touched(list: &[(Touch, u64, u64)]) -> Touched {
        let mut touched = Touched::default();
        for &(touch, start, bytes) in list {
            touched.add(touch, start, bytes);
        }
        touched
    }

    #[test]
    fn who_conflicts_with_whom() {
        use Touch::{Read, Strong, Write};
        let at = |touch| touched(&[(touch, 100, 4)]);
        for (a, b, conflict) in [
            (Read, Read, false),
            (Strong, Strong, false),
            (Read, Write, true),
            (Write, Read, true),
            (Write, Write, true),
            (Strong, Read, true),
            (Read, Strong, true),
            (Write, Strong, true),
        ] {
            assert_eq!(at(a).conflict(&at(b)).is_some(), conflict, "{a:?} {b:?}");
        }
        assert_eq!(at(Read).conflict(&at(Write)), Some((100, false, true)));
    }

    #[test]
    fn interleaved_parts_do_not_meet() {
        let even: Vec<_> = (0..100).map(|i| (Touch::Write, 8 * i, 4)).collect();
        let odd: Vec<_> = (0..100).map(|i| (Touch::Write, 8 * i + 4, 4)).collect();
        assert_eq!(touched(&even).conflict(&touched(&odd)), None);
        let all = touched(&[(Touch::Read, 700, 1000)]);
        // 696..700 is before, 704..708 the first part inside.
        assert_eq!(touched(&even).conflict(&all), Some((704, true, false)));
        assert_eq!(all.conflict(&touched(&odd)), Some((700, false, true)));
        assert_eq!(
            touched(&[(Touch::Write, 0, 8), (Touch::Write, 8, 8)])
                .written
                .0,
            [(0, 16)]
        );
        assert!(Touched::default().is_empty() && !all.is_empty());
    }
}
