// Addressed randomness: u = (k + 1/2) 2^-52, k = 52 bits of Philox4x32-10 (Salmon et al., SC 2011).
//   key = seed of the request;  counter = (lane, slot, round, domain)
//   gumbel noise: counter = (target id / 4, position low, position high, GUMBEL), one word per id;
//   w = (word + 1/2) 2^-32, at most 1 - 2^-24;  G = -ln(-log1p(-w)), the upper tail exact
// 53 bits plus one half would round to 1; 52 bits keep u exact in f64 and strictly inside (0, 1).
#pragma once

#include <math.h>

#include "macros.h"
#include "params.h"

namespace tapout {
inline namespace TAPOUT_ISA {

struct PhiloxBlock {
  uint32_t word[4];
};

TAPOUT_HD PhiloxBlock philox_round(PhiloxBlock counter, uint32_t key0, uint32_t key1) {
  const uint64_t product0 = uint64_t{0xD2511F53u} * counter.word[0];
  const uint64_t product1 = uint64_t{0xCD9E8D57u} * counter.word[2];
  return {{static_cast<uint32_t>(product1 >> 32) ^ counter.word[1] ^ key0,
           static_cast<uint32_t>(product1),
           static_cast<uint32_t>(product0 >> 32) ^ counter.word[3] ^ key1,
           static_cast<uint32_t>(product0)}};
}

TAPOUT_HD PhiloxBlock philox4x32_10(PhiloxBlock counter, uint32_t key0, uint32_t key1) {
  for (int i = 0; i < 10; ++i) {
    counter = philox_round(counter, key0, key1);
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter;
}

TAPOUT_HD double uniform_from_words(uint32_t word0, uint32_t word1) {
  const uint64_t bits = (uint64_t{word0} << 20) | (word1 >> 12);
  return (static_cast<double>(bits) + 0.5) * 0x1p-52;
}

TAPOUT_HD double uniform_at(int64_t seed, uint32_t lane, int64_t slot, int64_t round,
                            Domain domain) {
  const uint64_t key = static_cast<uint64_t>(seed);
  const PhiloxBlock counter = {{lane, static_cast<uint32_t>(slot), static_cast<uint32_t>(round),
                                static_cast<uint32_t>(domain)}};
  const PhiloxBlock block =
      philox4x32_10(counter, static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32));
  return uniform_from_words(block.word[0], block.word[1]);
}

// Positions wrap around instead of overflowing.
TAPOUT_HD int64_t offset_position(int64_t position, int64_t slot) {
  return static_cast<int64_t>(static_cast<uint64_t>(position) + static_cast<uint64_t>(slot));
}

// The words of target ids 4 block to 4 block + 3.
TAPOUT_HD PhiloxBlock gumbel_block(int64_t seed, int64_t position, uint32_t block) {
  const uint64_t key = static_cast<uint64_t>(seed), where = static_cast<uint64_t>(position);
  const PhiloxBlock counter = {{block, static_cast<uint32_t>(where),
                                static_cast<uint32_t>(where >> 32),
                                static_cast<uint32_t>(Domain::kGumbel)}};
  return philox4x32_10(counter, static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32));
}

TAPOUT_HD uint32_t gumbel_word(int64_t seed, int64_t position, int64_t target_id) {
  return gumbel_block(seed, position, static_cast<uint32_t>(target_id >> 2)).word[target_id & 3];
}

TAPOUT_HD double gumbel_noise(uint32_t word) {
  const double w = (static_cast<double>(word) + 0.5) * 0x1p-32, top = 1.0 - 0x1p-24;
  return -log(-log1p(-(w < top ? w : top)));
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
