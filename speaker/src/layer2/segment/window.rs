//! Which datagrams have come.

/// Which datagrams of a run have come: each is taken once, and late ones that others have overtaken are taken too
/// (RFC 4303 §3.4.3).
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub(super) last: u32,
    /// Bit n: the one n before the last has come.
    came: u64,
}

impl Window {
    pub(super) fn new(sequence: u32) -> Self {
        Self { last: sequence, came: 1 }
    }

    /// `None`: it came before, or is too old to know; else whether it is newer than all before.
    pub(super) fn take(&mut self, sequence: u32) -> Option<bool> {
        if let Some(ahead) = sequence.checked_sub(self.last).filter(|ahead| *ahead > 0) {
            self.came = self.came.checked_shl(ahead).unwrap_or(0) | 1;
            self.last = sequence;
            return Some(true);
        }
        let bit = 1u64.checked_shl(self.last - sequence)?;
        let new = self.came & bit == 0;
        self.came |= bit;
        new.then_some(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_datagram_is_taken_once_in_whatever_order() {
        let mut window = Window::new(100);
        let taken: Vec<_> = [101, 100, 104, 103, 103, 102, 104, 168, 104, 105, 9000, 168]
            .into_iter()
            .map(|sequence| window.take(sequence))
            .collect();
        let (new, late) = (Some(true), Some(false));
        assert_eq!(taken, [new, None, new, late, None, late, None, new, None, late, new, None]);
    }
}
