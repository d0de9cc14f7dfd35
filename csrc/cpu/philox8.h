// Eight Philox blocks of gumbel noise at once (core/rng.h).
#pragma once

#include "../core/rng.h"
#include "vec16.h"

namespace tapout {
inline namespace TAPOUT_ISA {

// Word j of block i: lane i of word[j].
struct Philox8 {
  U64x8 word[4];
};

#if defined(TAPOUT_USE_AVX2) || defined(TAPOUT_USE_AVX512)

// The words that all blocks of one (seed, position) share, in every lane.
struct GumbelStream {
  U64x8 low;
  U64x8 high;
  U64x8 key[10][2];

  GumbelStream(int64_t seed, int64_t position) {
    low = set8(static_cast<uint32_t>(position));
    high = set8(static_cast<uint64_t>(position) >> 32);
    const uint64_t bits = static_cast<uint64_t>(seed);
    uint32_t key0 = static_cast<uint32_t>(bits), key1 = static_cast<uint32_t>(bits >> 32);
    for (int i = 0; i < 10; ++i, key0 += 0x9E3779B9u, key1 += 0xBB67AE85u) {
      key[i][0] = set8(key0);
      key[i][1] = set8(key1);
    }
  }
};

inline Philox8 philox8(U64x8 block, const GumbelStream& stream) {
  const U64x8 multiplier0 = set8(0xD2511F53u), multiplier1 = set8(0xCD9E8D57u);
  Philox8 x = {{block, stream.low, stream.high, set8(static_cast<uint64_t>(Domain::kGumbel))}};
  for (int i = 0; i < 10; ++i) {
    const U64x8 product0 = mul8(x.word[0], multiplier0), product1 = mul8(x.word[2], multiplier1);
    x = {{xor8(xor8(high8(product1), x.word[1]), stream.key[i][0]), product1,
          xor8(xor8(high8(product0), x.word[3]), stream.key[i][1]), product0}};
  }
  return x;
}

#else

struct GumbelStream {
  int64_t seed;
  int64_t position;

  GumbelStream(int64_t seed_, int64_t position_) : seed(seed_), position(position_) {}
};

// Block by block: GCC 12 miscompiles the loop above that broadcasts two running keys into lanes, in
// plain C++ at -O3 (UBSan finds nothing wrong with it).
inline Philox8 philox8(U64x8 block, const GumbelStream& stream) {
  uint64_t id[8], word[4][8];
  store8(id, block);
  for (int i = 0; i < 8; ++i) {
    const PhiloxBlock one =
        gumbel_block(stream.seed, stream.position, static_cast<uint32_t>(id[i]));
    for (int j = 0; j < 4; ++j) word[j][i] = one.word[j];
  }
  return {{load8(word[0]), load8(word[1]), load8(word[2]), load8(word[3])}};
}

#endif

}  // namespace TAPOUT_ISA
}  // namespace tapout
