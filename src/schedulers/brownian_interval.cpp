#include "schedulers/brownian_interval.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include <diffusers/core/random.h>

#include <ATen/ATen.h>
#include <ATen/Context.h>

#include "core/require.h"
#include "schedulers/step_math.h"

namespace diffusers {
inline namespace internal {
namespace {

constexpr std::size_t kPoolSize = 24;

/// Appends the 32-bit words of a number, lowest first. 0 has one word.
void append_words(std::vector<uint32_t>& words, uint64_t value) {
  words.push_back(static_cast<uint32_t>(value));
  if ((value >> 32) != 0) words.push_back(static_cast<uint32_t>(value >> 32));
}

/// The hash step of SeedSequence: one multiplication and one shift. Each call changes the constant.
uint32_t hash_word(uint32_t value, uint32_t& constant, uint32_t multiplier) {
  value ^= constant;
  constant *= multiplier;
  value *= constant;
  return value ^ (value >> 16);
}

uint32_t mix_words(uint32_t x, uint32_t y) {
  const uint32_t mixed = 0xca01f9ddU * x - 0x4973f715U * y;
  return mixed ^ (mixed >> 16);
}

/// Returns Python's round(x, 6): the decimal nearest to the exact value.
double round_to_micro(double x) {
  const std::string text = fmt::format("{:.6f}", x);
  double rounded = 0;
  std::from_chars(text.data(), text.data() + text.size(), rounded);
  return rounded;
}

}  // namespace

std::vector<uint32_t> seed_sequence_state(uint64_t entropy, const std::vector<uint64_t>& spawn_key,
                                          std::size_t pool_size, std::size_t count) {
  constexpr uint32_t kMultiplierA = 0x931e8875U;
  constexpr uint32_t kMultiplierB = 0x58f38dedU;
  std::vector<uint32_t> words;
  append_words(words, entropy);
  // Zeros separate the entropy from the spawn key.
  if (!spawn_key.empty() && words.size() < pool_size) words.resize(pool_size, 0);
  for (const uint64_t key : spawn_key) append_words(words, key);

  std::vector<uint32_t> pool(pool_size);
  uint32_t constant = 0x43b0d7e5U;
  for (std::size_t i = 0; i < pool_size; ++i)
    pool[i] = hash_word(i < words.size() ? words[i] : 0, constant, kMultiplierA);
  for (std::size_t from = 0; from < pool_size; ++from)
    for (std::size_t to = 0; to < pool_size; ++to)
      if (from != to) pool[to] = mix_words(pool[to], hash_word(pool[from], constant, kMultiplierA));
  for (std::size_t from = pool_size; from < words.size(); ++from)
    for (uint32_t& word : pool) word = mix_words(word, hash_word(words[from], constant, kMultiplierA));

  std::vector<uint32_t> state(count);
  constant = 0x8b51f9ddU;
  for (std::size_t i = 0; i < count; ++i) state[i] = hash_word(pool[i % pool_size], constant, kMultiplierB);
  return state;
}

BrownianInterval::BrownianInterval(double t0, double t1, const Tensor& like, uint64_t entropy)
    : like_(at::empty({0}, like.options())),
      shape_(like.sizes().vec()),
      entropy_(entropy),
      root_{round_to_micro(t0), round_to_micro(t1), 0, 0} {
  w_ = noise(seed_sequence_state(entropy_, {}, kPoolSize, 1)[0]) * std::sqrt(t1 - t0);
}

Tensor BrownianInterval::noise(uint64_t seed) const {
  Generator generator = make_generator(seed);
  if (!like_.is_cpu()) {
    generator = at::globalContext().defaultGenerator(like_.device()).clone();
    generator.set_current_seed(seed);
  }
  return at::randn(shape_, generator, like_.options());
}

Tensor BrownianInterval::increment(double ta, double tb) const {
  const auto place = [this](double t) { return round_to_micro(std::clamp(t, root_.start, root_.end)); };
  Tensor sum;
  if (place(ta) < place(tb)) collect(root_, w_, place(ta), place(tb), sum);
  return sum.defined() ? sum : at::zeros(shape_, like_.options());
}

void BrownianInterval::collect(const Node& node, const Tensor& w, double ta, double tb, Tensor& sum) const {
  if (ta == node.start && tb == node.end) {
    sum = sum.defined() ? sum + w : w;
    return;
  }
  // Brownian bridge: given W over the interval, its left part is normally distributed around the proportional
  // share.
  const double middle = round_to_micro(0.5 * (node.end + node.start));
  const double left = middle - node.start;
  const double right = node.end - middle;
  const double reciprocal = 1 / (node.end - node.start);
  const uint64_t seed = seed_sequence_state(entropy_, {node.path, node.depth}, kPoolSize, 1)[0];
  const Tensor w_left = scaled_in_place(noise(seed), std::sqrt(left * right * reciprocal))
                            .add_(scaled_in_place(at::mul(w, left), reciprocal));
  if (ta < middle)
    collect({node.start, middle, 2 * node.path, node.depth + 1}, w_left, ta, std::min(tb, middle), sum);
  if (tb > middle)
    collect({middle, node.end, 2 * node.path + 1, node.depth + 1}, w - w_left, std::max(ta, middle), tb, sum);
}

}  // namespace internal
}  // namespace diffusers
