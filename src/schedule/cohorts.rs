//! All matrices of a step: which share a piece of work space, and what is launched when.

use std::collections::HashMap;
use std::sync::Arc;

use super::program::{Place, Program};
use super::tiles::{PIECE, check};
use crate::algorithm::{NewtonSchulz, NsDtype, Order, Rule};
use crate::error::{Error, Result};
use crate::group::Group;
use crate::plan::{MatrixView, Plan, PlannedParameter};

/// Bytes of work space for products where nobody says otherwise: what a larger matrix needs, or else 1 GiB.
pub const DEFAULT_WORKSPACE: usize = 1 << 30;

/// A matrix, and where its work space lies in its cohort's.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// Index of the parameter in the plan.
    pub parameter: usize,
    /// Index among the parameter's matrices.
    pub matrix: usize,
    /// Its shape.
    pub view: MatrixView,
    /// What is done with it.
    pub program: Arc<Program>,
    /// Bytes before its work space.
    pub offset: usize,
    /// Partial sums of squares of the matrices before it in the cohort, one for each 64 x 64 tile.
    pub first_square: usize,
    /// Tiles that the guard looks at, of the matrices before it.
    pub first_trace: usize,
}

/// A tile of a product of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TileOf {
    /// Index of the item in the cohort.
    pub item: usize,
    /// Index of the product in its program.
    pub product: usize,
    /// In tiles.
    pub row: usize,
    /// In tiles.
    pub column: usize,
}

/// The tiles of a phase, the longest first.
pub type Launch = Vec<TileOf>;

/// Matrices of a group that go through their phases together.
#[derive(Debug, Clone, PartialEq)]
pub struct Cohort {
    /// Index of the group.
    pub group: usize,
    /// Whether products are in f16, not bf16.
    pub half: bool,
    /// The largest first.
    pub items: Vec<Item>,
    /// One launch a phase.
    pub launches: Vec<Launch>,
    /// What it needs.
    pub needs: Space,
    /// Where that begins.
    pub begins: Space,
}

/// Work space, or a place in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Space {
    /// Of matrices.
    pub bytes: usize,
    /// Partial sums of squares.
    pub squares: usize,
    /// Tiles that the guard looks at.
    pub traces: usize,
}

impl Space {
    fn plus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes + other.bytes,
            squares: self.squares + other.squares,
            traces: self.traces + other.traces,
        }
    }

    fn max(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.max(other.bytes),
            squares: self.squares.max(other.squares),
            traces: self.traces.max(other.traces),
        }
    }
}

/// The orthogonalisations of a step. A group's cohorts come one after the other and use the same work space; groups, which may
/// step on streams of their own, have their own.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Schedule {
    /// Group by group.
    pub cohorts: Vec<Cohort>,
    /// Of all groups.
    pub space: Space,
}

impl Item {
    /// The work space's bytes up to the end of `long` buffers and `square` ones.
    fn bytes_with(&self, longs: usize, squares: usize) -> usize {
        let pad = |x: usize| x.div_ceil(PIECE) * PIECE;
        let (rows, columns) = (pad(self.view.rows), pad(self.view.columns));
        let short = rows.min(columns);
        2 * (longs.saturating_mul(rows * columns)).saturating_add(squares * short * short)
    }

    /// Bytes of its work space: the input, and what program and safe iteration need beside it.
    pub(crate) fn bytes(&self, safe: &Program) -> usize {
        let (longs, squares) = (self.program.longs.max(safe.longs), self.program.squares.max(safe.squares));
        self.bytes_with(1 + longs, squares)
    }

    /// Where a place lies in the cohort's work space.
    pub fn at(&self, place: Place, safe: &Program) -> usize {
        let longs = 1 + self.program.longs.max(safe.longs);
        self.offset
            + match place {
                Place::Input => 0,
                Place::Long(i) => self.bytes_with(1 + i, 0),
                Place::Square(i) => self.bytes_with(longs, i),
            }
    }

    /// Tiles of 64 x 64.
    pub fn squares(&self) -> usize {
        self.view.rows.div_ceil(PIECE) * self.view.columns.div_ceil(PIECE)
    }

    /// Tiles of the product that the guard looks at.
    pub fn traces(&self) -> usize {
        let guarded = self.program.products.iter().find(|p| p.guard.is_some());
        guarded.map_or(0, |p| p.extents(self.view.rows, self.view.columns).tile_count())
    }
}

/// How a group's matrices are orthogonalised, if they are; whether before momentum.
pub(crate) fn spectral(rule: &Rule) -> Option<(&NewtonSchulz, bool)> {
    match rule {
        Rule::Lmo(lmo) if lmo.norm.is_spectral() => Some((&lmo.newton_schulz, lmo.order == Order::LmoFirst)),
        _ => None,
    }
}

impl Schedule {
    /// Groups the matrices of a plan that are orthogonalised, so that their work space keeps within `limit` bytes: each group
    /// has an equal share.
    ///
    /// # Errors
    /// A matrix that needs more than its group's share by itself, named with the bytes that it needs; one with a side of more
    /// than [`LONGEST`](super::LONGEST) or more than [`LARGEST`](super::LARGEST) elements.
    pub fn new(plan: &Plan, limit: Option<usize>) -> Result<Self> {
        let safe = Program::safe();
        let mut this = Self::default();
        let is_used = |(group, g): &(usize, &Group)| {
            let used = |p: &PlannedParameter| p.group == *group && !p.matrices.is_empty();
            spectral(g.algorithm().rule()).is_some() && plan.parameters.iter().any(used)
        };
        let groups = plan.groups.iter().enumerate().filter(is_used).count().max(1);
        let limit = limit.map(|limit| limit / groups);
        for (group, spec) in plan.groups.iter().enumerate() {
            let Some((spec, _)) = spectral(spec.algorithm().rule()) else { continue };
            let half = spec.dtype == Some(NsDtype::F16);
            let mut programs: HashMap<(usize, usize), Arc<Program>> = HashMap::new();
            let mut items = vec![];
            for (parameter, planned) in plan.parameters.iter().enumerate().filter(|(_, p)| p.group == group) {
                for (matrix, &view) in planned.matrices.iter().enumerate() {
                    check(view.rows, view.columns)
                        .map_err(|reason| Error::parameter(&planned.spec.name, reason))?;
                    let shape = (view.rows, view.columns);
                    let program = programs
                        .entry(shape)
                        .or_insert_with(|| Arc::new(Program::new(spec, shape.0, shape.1)));
                    let program = program.clone();
                    items.push(Item {
                        parameter,
                        matrix,
                        view,
                        program,
                        offset: 0,
                        first_square: 0,
                        first_trace: 0,
                    });
                }
            }
            // What takes longest comes first, so that less is left to wait for at the end of a launch.
            items.sort_by_key(|item| {
                std::cmp::Reverse(item.program.ideal_flops(item.view.rows, item.view.columns))
            });
            let mut cohorts = vec![];
            let mut open: Option<Cohort> = None;
            for item in items {
                let bytes = item.bytes(&safe);
                if let Some(limit) = limit.filter(|&limit| bytes > limit) {
                    let spec = &plan.parameters[item.parameter].spec;
                    let reason = format!(
                        "orthogonalising {} x {} needs {bytes} bytes of work space, and max_workspace is {}",
                        item.view.rows,
                        item.view.columns,
                        if groups == 1 {
                            limit.to_string()
                        } else {
                            format!("{} for {groups} groups", limit * groups)
                        }
                    );
                    return Err(Error::parameter(&spec.name, reason));
                }
                if let Some(cohort) =
                    open.take_if(|c| c.needs.bytes + bytes > limit.unwrap_or(DEFAULT_WORKSPACE))
                {
                    cohorts.push(cohort.launched());
                }
                open.get_or_insert_with(|| Cohort::new(group, half)).push(item, bytes);
            }
            cohorts.extend(open.map(Cohort::launched));
            let most = cohorts.iter().fold(Space::default(), |most, cohort| most.max(cohort.needs));
            cohorts.iter_mut().for_each(|cohort| cohort.begins = this.space);
            this.cohorts.extend(cohorts);
            this.space = this.space.plus(most);
        }
        Ok(this)
    }

    /// Floating-point operations of all products: needed, and executed by whole blocks.
    pub fn flops(&self) -> (u64, u64) {
        let items = self.cohorts.iter().flat_map(|cohort| &cohort.items);
        items.fold((0, 0), |(ideal, executed), item| {
            let MatrixView { rows, columns, .. } = item.view;
            (
                ideal + item.program.ideal_flops(rows, columns),
                executed + item.program.executed_flops(rows, columns),
            )
        })
    }
}

impl Cohort {
    fn new(group: usize, half: bool) -> Self {
        Self {
            group,
            half,
            items: vec![],
            launches: vec![],
            needs: Space::default(),
            begins: Space::default(),
        }
    }

    fn push(&mut self, item: Item, bytes: usize) {
        let Space { bytes: offset, squares: first_square, traces: first_trace } = self.needs;
        let item = Item { offset, first_square, first_trace, ..item };
        self.needs = self.needs.plus(Space { bytes, squares: item.squares(), traces: item.traces() });
        self.items.push(item);
    }

    /// Lists the tiles of each phase.
    fn launched(mut self) -> Self {
        let phases = self.items.iter().map(|item| item.program.phases()).max().unwrap_or(0);
        let mut launches: Vec<Vec<(usize, TileOf)>> = vec![vec![]; phases];
        for (i, item) in self.items.iter().enumerate() {
            // Shorter iterations end together with the longest: the last launches, in which parameters are updated, are full.
            let late = phases - item.program.phases();
            for (product, p) in item.program.products.iter().enumerate() {
                let extents = p.extents(item.view.rows, item.view.columns);
                let tiles = extents.tiles().map(|(row, column)| TileOf { item: i, product, row, column });
                launches[late + p.phase].extend(tiles.map(|tile| (extents.k, tile)));
            }
        }
        self.launches = launches
            .into_iter()
            .map(|mut tiles| {
                tiles.sort_by_key(|(k, _)| std::cmp::Reverse(*k));
                tiles.into_iter().map(|(_, tile)| tile).collect()
            })
            .collect();
        self
    }
}
