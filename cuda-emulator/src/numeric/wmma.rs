//! Which elements of a matrix the registers of a `wmma` fragment hold.
//!
//! The ISA leaves that open; here a fragment is the concatenation of the fragments that [`mma`](super::mma) has for 16 by 8
//! tiles, as it seems to be on cards since sm_80 (numbers of registers agree). A product of 8 rows is computed as its transpose. An f16
//! fragment of A or B always has eight registers: where the matrix has fewer elements, they come again.

/// The shapes with a fragment of their own: m, n and k.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Shape {
    M16N16K16,
    M8N32K16,
    M32N8K16,
    M16N16K8,
    M8N8K4,
}

impl Shape {
    pub(crate) fn sizes(self) -> [usize; 3] {
        match self {
            Self::M16N16K16 => [16, 16, 16],
            Self::M8N32K16 => [8, 32, 16],
            Self::M32N8K16 => [32, 8, 16],
            Self::M16N16K8 => [16, 16, 8],
            Self::M8N8K4 => [8, 8, 4],
        }
    }

    /// Whether the tiles compute the transpose of D.
    pub(crate) fn is_transposed(self) -> bool {
        self == Self::M8N32K16
    }

    /// Tiles along the rows and the columns of D (of its transpose).
    pub(crate) fn tiles(self) -> [usize; 2] {
        match self {
            Self::M16N16K16 | Self::M16N16K8 => [1, 2],
            Self::M8N32K16 | Self::M32N8K16 => [2, 1],
            Self::M8N8K4 => [1, 1],
        }
    }
}

/// The matrix: A, B, or C and D.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    Left,
    Right,
    Sum,
}

/// A matrix in the registers of a warp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Fragment {
    pub shape: Shape,
    pub role: Role,
    /// 1, 2, 4, or 8 (in registers of 64 bits).
    pub element_bytes: usize,
    /// Eight registers whatever the size of the matrix.
    pub repeats: bool,
}

impl Fragment {
    /// Rows and columns.
    pub(crate) fn size(self) -> [usize; 2] {
        let [m, n, k] = self.shape.sizes();
        match self.role {
            Role::Left => [m, k],
            Role::Right => [k, n],
            Role::Sum => [m, n],
        }
    }

    /// Elements from one row (or column) to the next in a dense matrix.
    pub(crate) fn width(self, by_rows: bool) -> usize {
        self.size()[usize::from(by_rows)]
    }

    /// Elements in a register.
    pub(crate) fn per_register(self) -> usize {
        4usize.div_ceil(self.element_bytes)
    }

    /// Registers a lane needs to hold every element once.
    pub(crate) fn different(self) -> usize {
        let [rows, columns] = self.size();
        rows * columns / 32 / self.per_register()
    }

    pub(crate) fn registers(self) -> usize {
        if self.repeats { 8 } else { self.different() }
    }

    /// Row and column of an element of a lane's register.
    pub(crate) fn place(self, register: usize, lane: usize, element: usize) -> [usize; 2] {
        let register = register % self.different();
        let (group, place) = (lane / 4, lane % 4);
        let per_register = self.per_register();
        let k = self.shape.sizes()[2];
        // Registers of 8 rows or columns.
        let blocks = (k / (4 * per_register)).max(1);
        let transposed = self.shape.is_transposed();
        let role = match (self.role, transposed) {
            (Role::Left, true) => Role::Right,
            (Role::Right, true) => Role::Left,
            (role, _) => role,
        };
        let [row, column] = match role {
            Role::Left => {
                let halves = if self.shape == Shape::M8N8K4 { 1 } else { 2 };
                let (tile, rest) = (register / (halves * blocks), register % (halves * blocks));
                let (block, half) = (rest / halves, rest % halves);
                [
                    16 * tile + 8 * half + group,
                    per_register * (4 * block + place) + element,
                ]
            }
            Role::Right => {
                let (tile, block) = (register / blocks, register % blocks);
                [
                    per_register * (4 * block + place) + element,
                    8 * tile + group,
                ]
            }
            Role::Sum => {
                // Two columns are two halves of a register, or two registers.
                let in_pair = 2 / per_register;
                let (pair, odd) = (register / in_pair, register % in_pair + element);
                let [_, right] = self.shape.tiles();
                let halves = if self.shape == Shape::M8N8K4 { 1 } else { 2 };
                let (tile, half) = (pair / halves, pair % halves);
                [
                    16 * (tile / right) + 8 * half + group,
                    8 * (tile % right) + 2 * place + odd,
                ]
            }
        };
        if transposed {
            [column, row]
        } else {
            [row, column]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_has_its_places() {
        use Shape::*;
        let mut seen = 0;
        for shape in [M16N16K16, M8N32K16, M32N8K16, M16N16K8, M8N8K4] {
            for role in [Role::Left, Role::Right, Role::Sum] {
                for element_bytes in [1, 2, 4, 8] {
                    let fits = match (shape, role) {
                        (M8N8K4, _) => element_bytes == 8,
                        (M16N16K8, _) => element_bytes == 4,
                        (_, Role::Sum) => element_bytes == 2 || element_bytes == 4,
                        _ => element_bytes <= 2,
                    };
                    if !fits {
                        continue;
                    }
                    let fragment = Fragment {
                        shape,
                        role,
                        element_bytes,
                        repeats: false,
                    };
                    let [rows, columns] = fragment.size();
                    let mut count = vec![0; rows * columns];
                    for register in 0..fragment.registers() {
                        for lane in 0..32 {
                            for element in 0..fragment.per_register() {
                                let [row, column] = fragment.place(register, lane, element);
                                count[row * columns + column] += 1;
                            }
                        }
                    }
                    assert_eq!(count, vec![1; rows * columns], "{fragment:?}");
                    seen += 1;
                }
            }
        }
        assert_eq!(seen, 3 * 6 + 6);
    }

    #[test]
    fn numbers_of_registers_are_the_isa_s() {
        let count = |shape, role, element_bytes, repeats| {
            Fragment {
                shape,
                role,
                element_bytes,
                repeats,
            }
            .registers()
        };
        use Role::*;
        use Shape::*;
        for shape in [M16N16K16, M8N32K16, M32N8K16] {
            assert_eq!(count(shape, Left, 2, true), 8);
            assert_eq!(count(shape, Right, 2, true), 8);
            assert_eq!(count(shape, Sum, 2, false), 4);
            assert_eq!(count(shape, Sum, 4, false), 8);
        }
        let bf16 = |shape| [count(shape, Left, 2, false), count(shape, Right, 2, false)];
        assert_eq!(
            [bf16(M16N16K16), bf16(M8N32K16), bf16(M32N8K16)],
            [[4, 4], [2, 8], [8, 2]]
        );
        let bytes = |shape| [count(shape, Left, 1, false), count(shape, Right, 1, false)];
        assert_eq!(
            [bytes(M16N16K16), bytes(M8N32K16), bytes(M32N8K16)],
            [[2, 2], [1, 4], [4, 1]]
        );
        assert_eq!(count(M16N16K8, Left, 4, false), 4);
        assert_eq!(count(M16N16K8, Right, 4, false), 4);
        assert_eq!(count(M8N8K4, Left, 8, false), 1);
        assert_eq!(count(M8N8K4, Sum, 8, false), 2);
    }
}
