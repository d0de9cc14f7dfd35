// The block rule (core/accept.h). One pass over the target rows gives the weights w; then levels
// are tried from the longest down, so that a residual S_i is summed only where the noise leaves it
// a say. Its chunk masses are those the replacement is drawn from.
#pragma once

#include "target.h"

namespace tapout {
inline namespace TAPOUT_ISA {

struct Level {
  RowLaw law;
  double weight;  // w
};

inline int64_t align64(int64_t bytes) { return (bytes + 63) / 64 * 64; }

// Scratch of one level: its record, then what its row needs.
inline int64_t level_bytes(int64_t row_bytes) { return align64(sizeof(Level)) + row_bytes; }

struct Levels {
  Team team;
  int64_t stride;

  Level& operator[](int64_t i) const {
    return *reinterpret_cast<Level*>(team.scratch + i * stride);
  }
  Team row_team(int64_t i) const {
    Team row = team;
    row.scratch += i * stride + align64(sizeof(Level));
    return row;
  }
};

// Reads rows until the draft ends: by its length, at an invalid row or at a bad draft.
struct BlockEnd {
  int64_t end;  // L
  Status status;
};

inline BlockEnd read_levels(const Request& request, const Levels& levels) {
  const VerifyParams& params = request.params;
  double weight = 1.0;
  for (int64_t i = 0;; ++i) {
    Level& level = levels[i];
    level.law = target_law(request, i, levels.row_team(i));
    level.weight = weight;
    if (level.law.status != Status::kOk) return {i, level.law.status};
    if (i == request.length) return {i, Status::kOk};
    const Draft draft = draft_at(request, i);
    if (draft.bad) return {i, Status::kBadDraft};
    const double p_target = draft_target_probability(level.law, draft);
    weight = block_weight(weight, p_target, draft.p_draft);
    params.accept_prob[request.b * params.slots + i] =
        static_cast<float>(accept_probability(p_target, draft.p_draft));
    write_overlap(request, i, level.law, levels.row_team(i));
    if (draft.foreign) {
      levels[i + 1].weight = weight;  // 0: that level is never accepted, its row is not needed
      return {i + 1, Status::kBadDraft};
    }
  }
}

inline bool level_holds(const Request& request, int64_t i, const Level& level, const Team& team) {
  if (i == 0) {
    rejected_mass(request, 0, level.law, level.weight, team);
    return true;
  }
  const double uniform = noise(request, i - 1, Domain::kAccept);
  if (!block_may_accept(uniform, level.weight)) return false;
  const double residual = rejected_mass(request, i, level.law, level.weight, team);
  return block_accepts(uniform, residual, level.weight);
}

// The accepted level; below `end`, its replacement is prepared.
inline int64_t accepted_level(const Request& request, const Levels& levels, int64_t end) {
  if (end == 0) return 0;
  if (block_accepts_all(noise(request, end - 1, Domain::kAccept), levels[end].weight)) return end;
  int64_t i = end - 1;
  while (!level_holds(request, i, levels[i], levels.row_team(i))) --i;
  return i;
}

inline Status verify_block(const Request& request, const Levels& levels) {
  const VerifyParams& params = request.params;
  const BlockEnd block = read_levels(request, levels);
  const int64_t accepted = accepted_level(request, levels, block.end);
  params.num_accepted[request.b] = static_cast<int32_t>(accepted);
  Level& last = levels[accepted];
  int64_t token = -1;
  if (accepted < block.end) {
    token = replacement(request, accepted, last.law, last.weight);
  } else if (last.law.status == Status::kOk) {
    token = target_token(request, accepted, last.law, levels.row_team(accepted));
  }
  for (int64_t i = 0; i < accepted; ++i) {
    emit(request, i, draft_at(request, i).token, levels[i].law, levels.row_team(i));
  }
  if (token >= 0) emit(request, accepted, token, last.law, levels.row_team(accepted));
  return block.status;
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
