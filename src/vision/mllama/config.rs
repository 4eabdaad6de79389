//! Sizes of the vision encoder of Llama 3.2 Vision.

/// Sizes of the encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct TowerConfig {
    /// Width d of the hidden state.
    pub width: usize,
    /// Attention heads.
    pub heads: usize,
    /// Local layers.
    pub layers: usize,
    /// Global layers, which are gated.
    pub global_layers: usize,
    /// Hidden width of the feed-forward.
    pub feed_forward_width: usize,
    /// Side of a tile in pixels.
    pub side: usize,
    /// Side of a patch in pixels.
    pub patch: usize,
    /// Tiles of a picture at most.
    pub slots: usize,
    /// Numbers of local layers after which the state is a part of the features.
    pub kept: Vec<usize>,
    /// Epsilon of the norms of the layers.
    pub norm_eps: f64,
}

impl TowerConfig {
    /// Returns the tokens of one tile: its patches and a class token.
    pub fn tokens(&self) -> usize {
        (self.side / self.patch).pow(2) + 1
    }

    /// Returns the width of one head.
    pub fn head_width(&self) -> usize {
        self.width / self.heads
    }

    /// Returns the width of a feature: the last state and the kept ones.
    pub fn features_width(&self) -> usize {
        self.width * (1 + self.kept.len())
    }

    /// Refuses sizes that no model has, before any allocation depends on them.
    ///
    /// # Errors
    /// The size that is out of bounds, or the two that contradict each other.
    pub fn check(&self) -> Result<(), String> {
        let sizes = [
            ("width", self.width, 1 << 16),
            ("number of heads", self.heads, 1 << 10),
            ("number of local layers", self.layers, 1 << 10),
            ("number of global layers", self.global_layers, 1 << 10),
            ("feed-forward width", self.feed_forward_width, 1 << 20),
            ("side of a tile", self.side, 4096),
            ("side of a patch", self.patch, 4096),
            ("number of tiles", self.slots, 16),
            ("number of kept states", self.kept.len(), 64),
        ];
        if let Some((name, size, limit)) = sizes.iter().find(|(_, size, limit)| !(1..=*limit).contains(size))
        {
            return Err(format!("the {name} of the vision encoder is {size}, not between 1 and {limit}"));
        }
        if !self.width.is_multiple_of(self.heads) || !self.side.is_multiple_of(self.patch) {
            let Self { width, heads, side, patch, .. } = self;
            return Err(format!(
                "width {width} has no {heads} heads, or side {side} no patches of {patch} pixels"
            ));
        }
        if let Some(state) = self.kept.iter().find(|&&state| state > self.layers) {
            return Err(format!("state {state} of {} local layers does not exist", self.layers));
        }
        match self.norm_eps.is_finite() && self.norm_eps > 0.0 {
            true => Ok(()),
            false => Err(format!("the epsilon of the vision encoder is {}", self.norm_eps)),
        }
    }
}
