// What a linear multiplies by: BlockLinear's tiles of codes, SignLinear's planes of signs, SparseLinear's
// tiles of kept codes.
#pragma once

#include <vector>

#include "ops/common.h"

namespace bqc {

// Inputs 2 to 4 of a linear, checked once; they are read where the file put them.
class LinearWeight {
 public:
  virtual ~LinearWeight() = default;

  int64_t columns() const { return columns_; }
  int64_t strips() const { return strips_; }
  const float* bias() const { return bias_.data(); }

  // Throws Error where an input in these blocks does not fit.
  virtual void check(const Tensor& codes, const Geometry& g) const = 0;

  // Rows that a panel should hold at most.
  virtual int64_t panel_rows(const Geometry& g) const = 0;
  // Rows that the widest kernel multiplies at once; fewer take almost as long.
  virtual int64_t tile_rows() const = 0;
  virtual int64_t panel_bytes(const Geometry& g, int64_t rows) const = 0;
  virtual void prepare(const Geometry& g, const int8_t* codes, const int8_t* exponents, int64_t rows,
                       void* panel) const = 0;
  // Products without bias of strips [first, last) to out [rows][16 * strips].
  virtual void multiply(const Geometry& g, const void* panel, int64_t rows, int64_t first, int64_t last,
                        float* out) const = 0;

 protected:
  LinearWeight(const Node& node, const KernelSet* set);

  const KernelSet* set_;
  Numbers bias_;
  int64_t columns_, strips_;
};

// Tiles n16k4 of codes, with exponents.
class BlockWeight : public LinearWeight {
 public:
  BlockWeight(const Node& node, const KernelSet* set);

  void check(const Tensor& codes, const Geometry& g) const override;
  int64_t panel_rows(const Geometry& g) const override;
  int64_t tile_rows() const override { return 6; }
  int64_t panel_bytes(const Geometry& g, int64_t rows) const override;
  void prepare(const Geometry& g, const int8_t* codes, const int8_t* exponents, int64_t rows,
               void* panel) const override;
  void multiply(const Geometry& g, const void* panel, int64_t rows, int64_t first, int64_t last,
                float* out) const override;

 private:
  int bits_;
  int64_t padded_inputs_, blocks_;
  const uint8_t* tiles_;
  const int8_t* exponents_;
};

// One or two planes n16k16 of signs, with float scales.
class SignWeight : public LinearWeight {
 public:
  SignWeight(const Node& node, const KernelSet* set);

  void check(const Tensor& codes, const Geometry& g) const override;
  int64_t panel_rows(const Geometry& g) const override;
  int64_t tile_rows() const override { return 8; }
  int64_t panel_bytes(const Geometry& g, int64_t rows) const override;
  void prepare(const Geometry& g, const int8_t* codes, const int8_t* exponents, int64_t rows,
               void* panel) const override;
  void multiply(const Geometry& g, const void* panel, int64_t rows, int64_t first, int64_t last,
                float* out) const override;

 private:
  int64_t padded_inputs_;
  std::vector<float> scales_;  // [planes][16 * strips]
  SignPlanes planes_;
};

// Tiles n16s4 of the kept codes of every few inputs, with float scales.
class SparseWeight : public LinearWeight {
 public:
  SparseWeight(const Node& node, const KernelSet* set);

  void check(const Tensor& codes, const Geometry& g) const override;
  int64_t panel_rows(const Geometry& g) const override;
  int64_t tile_rows() const override { return 8; }
  int64_t panel_bytes(const Geometry& g, int64_t rows) const override;
  void prepare(const Geometry& g, const int8_t* codes, const int8_t* exponents, int64_t rows,
               void* panel) const override;
  void multiply(const Geometry& g, const void* panel, int64_t rows, int64_t first, int64_t last,
                float* out) const override;

 private:
  int64_t padded_inputs_;
  SparseTiles tiles_;
};

}  // namespace bqc
