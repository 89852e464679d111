// How the rows of an input times a packed weight are shared out to threads.
#pragma once

#include <algorithm>

#include "ops/common.h"

namespace bqc {

constexpr int64_t kMaxRows = int64_t{1} << 31;

// Rows whose products with so many strips stay in the second cache.
inline int64_t cached_rows(int64_t strips) { return std::max<int64_t>(128 * 1024 / (strips * 16), 12); }

// A task takes some rows through everything; its products stay in its own cache.
template <class Product, class Epilogue>
void product_by_rows(const Call& call, const Product& product, int64_t rows, const Epilogue& epilogue) {
  const int64_t threads = call.threads(), width = product.strips() * 16;
  const int64_t fits = std::min(product.product_rows(), product.panel_rows());
  const int64_t unit = product.tile_rows(), tiles = ceil_div(rows, unit);
  int64_t panels = ceil_div(tiles, std::max<int64_t>(fits / unit, 1));
  if (panels < 8 * threads) panels = std::min(round_up(panels, threads), tiles);
  const auto first_row = [&](int64_t i) { return std::min(tiles * i / panels * unit, rows); };
  call.parallel(panels, [&](int64_t i) {
    const int64_t first = first_row(i), some = first_row(i + 1) - first;
    void* panel = scratch<char>(Slot::panel, product.panel_bytes(some));
    float* products = scratch<float>(Slot::tile, some * width);
    product.prepare(first, some, panel);
    product.multiply(panel, some, 0, product.strips(), products);
    for (int64_t r = 0; r < some; ++r) epilogue(first + r, products + r * width);
  });
}

// Few rows: tasks share out the columns, so that the weights are read once in all; then the rows.
template <class Product, class Epilogue>
void product_by_columns(const Call& call, const Product& product, int64_t rows, const Epilogue& epilogue) {
  const int64_t threads = call.threads(), strips = product.strips(), width = strips * 16;
  const int64_t panels = ceil_div(rows, product.panel_rows());
  const auto first_row = [&](int64_t i) { return rows * i / panels; };
  const int64_t panel_size = round_up(product.panel_bytes(ceil_div(rows, panels)), 64);
  char* prepared = scratch<char>(Slot::shared, panels * panel_size);
  float* products = scratch<float>(Slot::shared2, rows * width);
  call.parallel(panels, [&](int64_t i) {
    product.prepare(first_row(i), first_row(i + 1) - first_row(i), prepared + i * panel_size);
  });
  // A task asks for what it multiplies next, but not for its first pair of strips: so they are few, unless
  // they would be of different sizes.
  const int64_t pairs = ceil_div(strips, 2), chunks = pairs <= 4 * threads ? pairs : 2 * threads;
  call.parallel(panels * chunks, [&](int64_t task) {
    const int64_t i = task % panels, chunk = task / panels;
    const int64_t from = 2 * (pairs * chunk / chunks),
                  to = std::min(strips, 2 * (pairs * (chunk + 1) / chunks));
    product.multiply(prepared + i * panel_size, first_row(i + 1) - first_row(i), from, to,
                     products + first_row(i) * width);
  });
  parallel_ranges(call, rows, std::max<int64_t>(1, 4096 / width), [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) epilogue(r, products + r * width);
  });
}

// For every one of at most kMaxRows rows calls epilogue(row, its products [16 * strips]).
//
// Product has strips(), panel_rows() and product_rows(), how many rows a panel and an array of products
// should have at most, tile_rows(), of which a panel should have a multiple, panel_bytes(rows), prepare(first
// row, rows, panel), and multiply(panel, rows, first strip, last strip, out [rows][16 * strips]).
template <class Product, class Epilogue>
void run_product(const Call& call, const Product& product, int64_t rows, const Epilogue& epilogue) {
  constexpr int64_t kRowsPerThread = 24;
  const int64_t threads = call.threads();
  if (rows == 0) return;
  if (threads > 1 && rows < kRowsPerThread * threads) {
    product_by_columns(call, product, rows, epilogue);
  } else {
    product_by_rows(call, product, rows, epilogue);
  }
}

}  // namespace bqc
