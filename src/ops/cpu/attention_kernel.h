#pragma once

// Attention for vectors of any length. The file of an instruction set includes this header.

#include "ops/cpu/kernels.h"
#include "ops/cpu/simd.h"
#include "ops/cpu/transpose_lanes.h"

namespace diffusers {
inline namespace internal {
namespace cpu {
namespace {

// SIMD lanes hold queries. A block has `Width` vectors of queries (one or two) and all keys. Keys are packed
// in rows of `Depth` floats (8, 16 or 32, zero beyond the real depth). The scores of a block are stored as
// [key][query].

inline constexpr int64_t kBlock = 2 * kLanes;              // queries in a complete block
inline constexpr int64_t kKeyTile = kLanes == 16 ? 8 : 4;  // keys for which scores are computed at a time
inline constexpr int64_t kKeyBlock = 64;  // keys of a backward step; its data fits in the L1 cache
inline constexpr int64_t kKeyRows = 8;    // packed keys are a multiple of this number
/// Keys of a forward step. With AVX-512 the scores of a step fit in the L1 cache.
inline constexpr int64_t kForwardKeys = kLanes == 16 ? 128 : int64_t{1} << 40;

/// Floats of a row of `Depth` floats that one vector holds.
template <int64_t Depth>
inline constexpr int64_t kRowStep = Depth < kLanes ? Depth : kLanes;

/// Stores the first `count` <= kLanes floats.
inline void store_first(float* to, Vec value, int64_t count) {
  if (count == kLanes) {
    store(to, value);
  } else {
    store_some(to, value, count);
  }
}

/// Packs `count` rows of `depth` floats, times `factor`, into `padded` rows of `Depth` floats; the rest is
/// zero.
template <int64_t Depth>
void pack_rows(const float* from, int64_t row_stride, int64_t count, int64_t depth, int64_t padded,
               float factor, float* to) {
  for (int64_t row = 0; row < padded; ++row, to += Depth) {
    for (int64_t d = 0; d < Depth; d += kRowStep<Depth>) {
      Vec value{};
      if (row < count && d < depth) {
        const float* at = from + row * row_stride + d;
        value = d + kLanes <= depth ? load(at) * factor : load_some(at, depth - d) * factor;
      }
      store_first(to + d, value, kRowStep<Depth>);
    }
  }
}

/// Unpacks the first `depth` floats of `count` rows, times `factor`.
template <int64_t Depth>
void unpack_rows(const float* from, int64_t count, int64_t depth, float factor, float* to,
                 int64_t row_stride) {
  for (int64_t row = 0; row < count; ++row) {
    for (int64_t d = 0; d < depth; d += kRowStep<Depth>) {
      const float* at = from + row * Depth + d;
      const Vec value = (kRowStep<Depth> == kLanes ? load(at) : load_some(at, kRowStep<Depth>)) * factor;
      store_first(to + row * row_stride + d, value, lesser(kRowStep<Depth>, depth - d));
    }
  }
}

/// to[column][row] = from[row][column] * factor, in tiles of 8 x 8; both dimensions are multiples of 8.
inline void transpose(const float* from, int64_t rows, int64_t columns, float factor, float* to) {
  for (int64_t row = 0; row < rows; row += 8) {
    for (int64_t column = 0; column < columns; column += 8) {
      Eight v[8];
      for (int64_t k = 0; k < 8; ++k) v[k] = load_eight(from + (row + k) * columns + column) * factor;
      transpose_lanes(v);
      for (int64_t k = 0; k < 8; ++k) store_eight(to + (column + k) * rows + row, v[k]);
    }
  }
}

/// scores[key][query] = sum_d rows[key][d] columns[d][query]; `keys` is a multiple of kKeyTile.
template <int64_t Depth, int64_t Width>
void multiply_keys(const float* rows, const float* columns, int64_t keys, float* scores) {
  constexpr int64_t kQueries = Width * kLanes;
  for (int64_t key = 0; key < keys; key += kKeyTile) {
    Vec sum[kKeyTile][Width]{};
    for (int64_t d = 0; d < Depth; ++d) {
      Vec column[Width];
      for (int64_t w = 0; w < Width; ++w) column[w] = load(columns + d * kQueries + w * kLanes);
#pragma GCC unroll 8
      for (int64_t k = 0; k < kKeyTile; ++k) {
        const Vec factor = splat(rows[(key + k) * Depth + d]);
        for (int64_t w = 0; w < Width; ++w) sum[k][w] += factor * column[w];
      }
    }
    for (int64_t k = 0; k < kKeyTile; ++k)
      for (int64_t w = 0; w < Width; ++w) store(scores + (key + k) * kQueries + w * kLanes, sum[k][w]);
  }
}

/// columns[d][query] += sum_key rows[key][d] scores[key][query]
template <int64_t Depth, int64_t Width>
void accumulate_queries(const float* rows, const float* scores, int64_t keys, float* columns) {
  constexpr int64_t kQueries = Width * kLanes;
  constexpr int64_t kTile = kLanes == 16 ? 8 : 4;
  for (int64_t d = 0; d < Depth; d += kTile) {
    Vec sum[kTile][Width];
    for (int64_t t = 0; t < kTile; ++t)
      for (int64_t w = 0; w < Width; ++w) sum[t][w] = load(columns + (d + t) * kQueries + w * kLanes);
    for (int64_t key = 0; key < keys; ++key) {
      Vec score[Width];
      for (int64_t w = 0; w < Width; ++w) score[w] = load(scores + key * kQueries + w * kLanes);
#pragma GCC unroll 8
      for (int64_t t = 0; t < kTile; ++t) {
        const Vec factor = splat(rows[key * Depth + d + t]);
        for (int64_t w = 0; w < Width; ++w) sum[t][w] += factor * score[w];
      }
    }
    for (int64_t t = 0; t < kTile; ++t)
      for (int64_t w = 0; w < Width; ++w) store(columns + (d + t) * kQueries + w * kLanes, sum[t][w]);
  }
}

#if defined(DIFFUSERS_AVX512)
/// Returns the two floats at `from` in turn.
inline Vec splat_pair(const float* from) {
  double pair;
  __builtin_memcpy(&pair, from, sizeof pair);
  using Pairs = double __attribute__((vector_size(64)));
  const Pairs pairs{pair, pair, pair, pair, pair, pair, pair, pair};
  Vec value;
  __builtin_memcpy(&value, &pairs, sizeof value);
  return value;
}

/// The same for rows of 8 floats. A vector holds two rows of queries in turn, so that no lanes are idle.
template <int64_t Width>
void accumulate_keys_in_pairs(const float* scores, const float* rows, int64_t keys, float* to) {
  constexpr int64_t kQueries = Width * kLanes;
  Vec pairs[kQueries / 2];
#pragma GCC unroll 16
  for (int64_t p = 0; p < kQueries / 2; ++p) {
    const Vec two = load(rows + p * kLanes);
    pairs[p] = __builtin_shufflevector(two, two, 0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15);
  }
  for (int64_t key = 0; key < keys; key += kKeyRows) {
    Vec sum[kKeyRows]{};
    for (int64_t p = 0; p < kQueries / 2; ++p) {
#pragma GCC unroll 8
      for (int64_t t = 0; t < kKeyRows; ++t)
        sum[t] += splat_pair(scores + (key + t) * kQueries + 2 * p) * pairs[p];
    }
    for (int64_t t = 0; t < kKeyRows; ++t) {
      const Eight even = __builtin_shufflevector(sum[t], sum[t], 0, 2, 4, 6, 8, 10, 12, 14);
      const Eight odd = __builtin_shufflevector(sum[t], sum[t], 1, 3, 5, 7, 9, 11, 13, 15);
      float* row = to + (key + t) * 8;
      store_eight(row, load_eight(row) + (even + odd));
    }
  }
}
#endif

/// to[key][d] += sum_query scores[key][query] rows[query][d]; `keys` is a multiple of kKeyRows.
template <int64_t Depth, int64_t Width>
void accumulate_keys(const float* scores, const float* rows, int64_t keys, float* to) {
#if defined(DIFFUSERS_AVX512)
  if constexpr (Depth == 8) {
    accumulate_keys_in_pairs<Width>(scores, rows, keys, to);
    return;
  }
#endif
  constexpr int64_t kQueries = Width * kLanes;
  constexpr int64_t kVectors = Depth <= kLanes ? 1 : 2;
  constexpr int64_t kTile = kLanes == 16 ? 8 : 8 / kVectors;
  for (int64_t key = 0; key < keys; key += kTile) {
    for (int64_t d = 0; d < Depth; d += kVectors * kLanes) {
      Vec sum[kTile][kVectors];
      for (int64_t t = 0; t < kTile; ++t)
        for (int64_t v = 0; v < kVectors; ++v) sum[t][v] = load(to + (key + t) * Depth + d + v * kLanes);
      for (int64_t query = 0; query < kQueries; ++query) {
        Vec row[kVectors];
        for (int64_t v = 0; v < kVectors; ++v) row[v] = load(rows + query * Depth + d + v * kLanes);
#pragma GCC unroll 8
        for (int64_t t = 0; t < kTile; ++t) {
          const Vec factor = splat(scores[(key + t) * kQueries + query]);
          for (int64_t v = 0; v < kVectors; ++v) sum[t][v] += factor * row[v];
        }
      }
      for (int64_t t = 0; t < kTile; ++t)
        for (int64_t v = 0; v < kVectors; ++v) store(to + (key + t) * Depth + d + v * kLanes, sum[t][v]);
    }
  }
}

template <class T>
T* head_of(const HeadsView<T>& view, int64_t item, int64_t heads) {
  return view.data + item / heads * view.batch_stride + item % heads * view.head_stride;
}

template <int64_t Depth, int64_t Width>
void forward_block(const AttentionShape& shape, const float* query, int64_t query_stride, int64_t count,
                   const float* keys, const float* values, float* scores, float* output,
                   int64_t output_stride, float* log_sum) {
  constexpr int64_t kQueries = Width * kLanes;
  alignas(64) float rows[kQueries * Depth];
  alignas(64) float columns[Depth * kQueries];
  pack_rows<Depth>(query, query_stride, count, shape.depth, kQueries, shape.scale * kLog2E, rows);
  transpose(rows, kQueries, Depth, 1.0F, columns);

  Vec largest[Width];
  Vec sum[Width]{};
  alignas(64) float result[Depth * kQueries]{};
  for (int64_t first = 0; first < shape.keys; first += kForwardKeys) {
    const int64_t count_keys = lesser(kForwardKeys, shape.keys - first);
    multiply_keys<Depth, Width>(keys + first * Depth, columns, round_up(count_keys, kKeyTile), scores);
    Vec highest[Width];
    for (int64_t w = 0; w < Width; ++w) highest[w] = load(scores + w * kLanes);
    for (int64_t key = 1; key < count_keys; ++key)
      for (int64_t w = 0; w < Width; ++w)
        highest[w] = maximum(load(scores + key * kQueries + w * kLanes), highest[w]);
    if (first > 0) {
      // The sums so far are relative to the largest score so far.
      for (int64_t w = 0; w < Width; ++w) {
        highest[w] = maximum(largest[w], highest[w]);
        const Vec factor = exp2_vec(largest[w] - highest[w]);
        sum[w] *= factor;
        for (int64_t d = 0; d < Depth; ++d) {
          float* at = result + d * kQueries + w * kLanes;
          store(at, load(at) * factor);
        }
      }
    }
    for (int64_t w = 0; w < Width; ++w) largest[w] = highest[w];
    for (int64_t key = 0; key < count_keys; ++key) {
      for (int64_t w = 0; w < Width; ++w) {
        float* at = scores + key * kQueries + w * kLanes;
        const Vec power = exp2_vec(load(at) - largest[w]);
        store(at, power);
        sum[w] += power;
      }
    }
    accumulate_queries<Depth, Width>(values + first * Depth, scores, count_keys, result);
  }
  for (int64_t w = 0; w < Width; ++w) {
    const Vec inverse = 1.0F / sum[w];
    for (int64_t d = 0; d < Depth; ++d) {
      float* at = result + d * kQueries + w * kLanes;
      store(at, load(at) * inverse);
    }
    for (int64_t lane = 0; lane < lesser(kLanes, count - w * kLanes); ++lane)
      log_sum[w * kLanes + lane] = largest[w][lane] + __builtin_log2f(sum[w][lane]);
  }
  transpose(result, Depth, kQueries, 1.0F, rows);
  unpack_rows<Depth>(rows, count, shape.depth, 1.0F, output, output_stride);
}

template <int64_t Depth>
void forward_heads(const AttentionShape& shape, const AttentionInputs& inputs, const HeadsView<float>& output,
                   float* log_sum, float* scratch, int64_t begin, int64_t end) {
  const int64_t padded = round_up(shape.keys, kKeyTile);
  float* keys = scratch;
  float* values = keys + padded * Depth;
  float* scores = values + padded * Depth;
  for (int64_t item = begin; item < end; ++item) {
    pack_rows<Depth>(head_of(inputs.key, item, shape.heads), inputs.key.row_stride, shape.keys, shape.depth,
                     padded, 1.0F, keys);
    pack_rows<Depth>(head_of(inputs.value, item, shape.heads), inputs.value.row_stride, shape.keys,
                     shape.depth, padded, 1.0F, values);
    const float* query = head_of(inputs.query, item, shape.heads);
    float* to = head_of(output, item, shape.heads);
    for (int64_t first = 0; first < shape.queries; first += kBlock) {
      const int64_t count = lesser(kBlock, shape.queries - first);
      const auto block = count > kLanes ? forward_block<Depth, 2> : forward_block<Depth, 1>;
      block(shape, query + first * inputs.query.row_stride, inputs.query.row_stride, count, keys, values,
            scores, to + first * output.row_stride, output.row_stride,
            log_sum + item * shape.queries + first);
    }
  }
}

/// Packed data of a head for the backward pass, in rows of `Depth` floats.
struct PackedHead {
  float* keys;
  float* values;
  float* grad_keys;
  float* grad_values;
};

struct BackwardRows {
  const float* query;
  int64_t query_stride;
  const float* output;
  int64_t output_stride;
  const float* grad_output;
  int64_t grad_output_stride;
  const float* log_sum;
  float* grad_query;
  int64_t grad_query_stride;
};

template <int64_t Depth, int64_t Width>
void backward_block(const AttentionShape& shape, const BackwardRows& at, int64_t count,
                    const PackedHead& head) {
  constexpr int64_t kQueries = Width * kLanes;
  alignas(64) float query_rows[kQueries * Depth];
  alignas(64) float query_columns[kQueries * Depth];
  alignas(64) float grad_rows[kQueries * Depth];
  alignas(64) float grad_columns[kQueries * Depth];
  alignas(64) float grad_query[kQueries * Depth];
  alignas(64) float scores[kKeyBlock * kQueries];
  alignas(64) float grad_scores[kKeyBlock * kQueries];
  alignas(64) float log_sum[kQueries];
  alignas(64) float row_dot[kQueries];

  // grad_query temporarily holds the rows of the output, until they are multiplied with those of the
  // gradient.
  pack_rows<Depth>(at.output, at.output_stride, count, shape.depth, kQueries, 1.0F, grad_query);
  pack_rows<Depth>(at.grad_output, at.grad_output_stride, count, shape.depth, kQueries, 1.0F, grad_rows);
  for (int64_t query = 0; query < kQueries; ++query) {
    Eight sum{};
    for (int64_t d = 0; d < Depth; d += 8)
      sum += load_eight(grad_query + query * Depth + d) * load_eight(grad_rows + query * Depth + d);
    row_dot[query] = sum_eight(sum);
    // Padding queries have zero rows, so they have no effect as long as their weights are finite.
    log_sum[query] = query < count ? at.log_sum[query] : 0.0F;
  }
  for (float& value : grad_query) value = 0.0F;
  transpose(grad_rows, kQueries, Depth, 1.0F, grad_columns);
  pack_rows<Depth>(at.query, at.query_stride, count, shape.depth, kQueries, shape.scale, query_rows);
  transpose(query_rows, kQueries, Depth, kLog2E, query_columns);

  for (int64_t first = 0; first < shape.keys; first += kKeyBlock) {
    const int64_t keys = lesser(kKeyBlock, shape.keys - first);
    const int64_t offset = first * Depth;
    multiply_keys<Depth, Width>(head.keys + offset, query_columns, round_up(keys, kKeyTile), scores);
    multiply_keys<Depth, Width>(head.values + offset, grad_columns, round_up(keys, kKeyTile), grad_scores);
    for (int64_t w = 0; w < Width; ++w) {
      const Vec logs = load(log_sum + w * kLanes);
      const Vec dots = load(row_dot + w * kLanes);
      for (int64_t key = 0; key < keys; ++key) {
        float* score = scores + key * kQueries + w * kLanes;
        float* grad = grad_scores + key * kQueries + w * kLanes;
        const Vec probability = exp2_vec(load(score) - logs);
        store(score, probability);
        store(grad, probability * (load(grad) - dots));
      }
      for (int64_t key = keys; key < round_up(keys, kKeyRows); ++key) {
        store(scores + key * kQueries + w * kLanes, Vec{});
        store(grad_scores + key * kQueries + w * kLanes, Vec{});
      }
    }
    accumulate_queries<Depth, Width>(head.keys + offset, grad_scores, keys, grad_query);
    accumulate_keys<Depth, Width>(grad_scores, query_rows, round_up(keys, kKeyRows), head.grad_keys + offset);
    accumulate_keys<Depth, Width>(scores, grad_rows, round_up(keys, kKeyRows), head.grad_values + offset);
  }
  transpose(grad_query, Depth, kQueries, shape.scale, grad_columns);
  unpack_rows<Depth>(grad_columns, count, shape.depth, 1.0F, at.grad_query, at.grad_query_stride);
}

template <int64_t Depth>
void backward_heads(const AttentionShape& shape, const AttentionInputs& inputs,
                    const HeadsView<const float>& output, const HeadsView<const float>& grad_output,
                    const float* log_sum, const AttentionGradients& gradients, float* scratch, int64_t begin,
                    int64_t end) {
  const int64_t padded = round_up(shape.keys, kKeyRows);
  const PackedHead head{scratch, scratch + padded * Depth, scratch + 2 * padded * Depth,
                        scratch + 3 * padded * Depth};
  for (int64_t item = begin; item < end; ++item) {
    pack_rows<Depth>(head_of(inputs.key, item, shape.heads), inputs.key.row_stride, shape.keys, shape.depth,
                     padded, 1.0F, head.keys);
    pack_rows<Depth>(head_of(inputs.value, item, shape.heads), inputs.value.row_stride, shape.keys,
                     shape.depth, padded, 1.0F, head.values);
    for (int64_t i = 0; i < padded * Depth; i += kLanes) {
      store(head.grad_keys + i, Vec{});
      store(head.grad_values + i, Vec{});
    }
    for (int64_t first = 0; first < shape.queries; first += kBlock) {
      const int64_t count = lesser(kBlock, shape.queries - first);
      const BackwardRows rows{
          head_of(inputs.query, item, shape.heads) + first * inputs.query.row_stride,
          inputs.query.row_stride,
          head_of(output, item, shape.heads) + first * output.row_stride,
          output.row_stride,
          head_of(grad_output, item, shape.heads) + first * grad_output.row_stride,
          grad_output.row_stride,
          log_sum + item * shape.queries + first,
          head_of(gradients.query, item, shape.heads) + first * gradients.query.row_stride,
          gradients.query.row_stride};
      (count > kLanes ? backward_block<Depth, 2> : backward_block<Depth, 1>)(shape, rows, count, head);
    }
    unpack_rows<Depth>(head.grad_keys, shape.keys, shape.depth, 1.0F,
                       head_of(gradients.key, item, shape.heads), gradients.key.row_stride);
    unpack_rows<Depth>(head.grad_values, shape.keys, shape.depth, 1.0F,
                       head_of(gradients.value, item, shape.heads), gradients.value.row_stride);
  }
}

inline int64_t padded_depth(int64_t depth) { return depth <= 8 ? 8 : depth <= 16 ? 16 : 32; }

inline int64_t run_scratch(const AttentionShape& shape) {
  // Memory for keys and values, and for either the scores of a step or the gradients of keys and values.
  const int64_t packed = round_up(shape.keys, kKeyRows) * padded_depth(shape.depth);
  const int64_t scores = round_up(lesser(kForwardKeys, shape.keys), kKeyTile) * kBlock;
  return 2 * packed + (scores > 2 * packed ? scores : 2 * packed);
}

inline void run_forward(const AttentionShape& shape, const AttentionInputs& inputs,
                        const HeadsView<float>& output, float* log_sum, float* scratch, int64_t begin,
                        int64_t end) {
  const auto run = shape.depth <= 8    ? forward_heads<8>
                   : shape.depth <= 16 ? forward_heads<16>
                                       : forward_heads<32>;
  run(shape, inputs, output, log_sum, scratch, begin, end);
}

inline void run_backward(const AttentionShape& shape, const AttentionInputs& inputs,
                         const HeadsView<const float>& output, const HeadsView<const float>& grad_output,
                         const float* log_sum, const AttentionGradients& gradients, float* scratch,
                         int64_t begin, int64_t end) {
  const auto run = shape.depth <= 8    ? backward_heads<8>
                   : shape.depth <= 16 ? backward_heads<16>
                                       : backward_heads<32>;
  run(shape, inputs, output, grad_output, log_sum, gradients, scratch, begin, end);
}

}  // namespace
}  // namespace cpu
}  // namespace internal
}  // namespace diffusers
