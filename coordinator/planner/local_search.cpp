#include <algorithm>
#include <functional>
#include <map>
#include <numeric>
#include <optional>
#include <set>

#include "coordinator/planner/search.hpp"
#include "coordinator/planner/split.hpp"

namespace planaria::planner {
namespace {

// Work of one layout's score is about blocks · pipelines.
constexpr std::uint64_t kImproveWork = 5'000'000;
constexpr std::uint32_t kAllForms = 8;      // up to so many workers all forms of layouts are begun with
constexpr std::uint32_t kAllMoves = 24;     // up to so many workers all moves are tried
constexpr std::size_t kImprovedStarts = 4;  // so many of the best are improved
constexpr std::size_t kTunedStarts = 8;
constexpr std::uint32_t kDeepest = 16;         // stages that a form of equally long pipelines is begun with
constexpr std::uint32_t kManyWorkers = 2'000;  // whose layouts take long to score
constexpr std::size_t kImprovedOfForm = 4;     // and of each form of a small layout
constexpr double kAllSplits = 300;             // up to so many splits of a line all are tried
constexpr std::uint32_t kDeals = 16;           // further orders of a small layout's workers
constexpr double kAllPairs = 1'500;            // likewise of two lines at once
constexpr std::size_t kPartners = 12;          // pipelines that the slowest one exchanges workers with

using Depths = std::vector<std::uint32_t>;

Depths depths_of(const Candidate& candidate) {
  Depths depths;
  for (const Line& line : candidate) depths.push_back(static_cast<std::uint32_t>(line.workers.size()));
  std::ranges::sort(depths, std::greater<>());
  return depths;
}

class LocalSearch {
 public:
  explicit LocalSearch(Evaluator& evaluator)
      : evaluator_(&evaluator), forced_(!evaluator.options().forced_depths.empty()) {}

  Search run(const std::vector<Candidate>& starts) {
    for (const Candidate& start : starts) begin_with(start);
    for (const auto& order : orders()) {
      for (const Depths& depths : forms()) begin_with(build(order, depths));
    }
    if (!search_.best.score.fits() && !forced_) begin_with_few();
    std::ranges::stable_sort(starts_, [](const Found& a, const Found& b) { return a.score.better_than(b.score); });
    for (std::size_t i = 0; !small() && i < std::min(starts_.size(), kTunedStarts); ++i) {
      starts_[i].score = tune_slots(*evaluator_, starts_[i].candidate);
      note(starts_[i]);
    }
    const std::vector<std::size_t> chosen = starts_to_improve();
    for (const std::size_t start : chosen) {
      work_left_ = static_cast<std::int64_t>(kImproveWork / chosen.size());
      improve(starts_[start]);
      note(starts_[start]);
    }
    return std::move(search_);
  }

 private:
  // The best; of a small layout the best of each form, as what a form is worth shows only when it is improved.
  [[nodiscard]] std::vector<std::size_t> starts_to_improve() const {
    std::map<Depths, std::size_t> of_form;
    std::vector<std::size_t> chosen;
    for (std::size_t i = 0; i < starts_.size(); ++i) {
      if (small() ? of_form[depths_of(starts_[i].candidate)]++ < kImprovedOfForm : i < kImprovedStarts)
        chosen.push_back(i);
    }
    return chosen;
  }

  void note(const Found& found) {
    if (found.score.better_than(search_.best.score)) search_.best = found;
    Found& of_form = search_.alternatives[depths_of(found.candidate)];
    if (found.score.better_than(of_form.score)) of_form = found;
  }

  Score score(const Candidate& candidate) {
    ++search_.scored;
    work_left_ -= static_cast<std::int64_t>(std::uint64_t{evaluator_->blocks()} * candidate.size());
    return evaluator_->score(candidate);
  }

  void begin_with(Candidate candidate) {
    if (candidate.empty() || !complete(candidate)) return;
    Found found{candidate, {}};
    found.score = small() ? tune_slots(*evaluator_, found.candidate) : score(found.candidate);
    note(found);
    starts_.push_back(std::move(found));
  }

  // Splits blocks and slots of a grouping.
  bool complete(Candidate& candidate) {
    if (candidate.empty() || candidate.size() > evaluator_->slots()) return false;
    const auto count = static_cast<std::uint32_t>(candidate.size());
    for (Line& line : candidate) {
      if (line.slots == 0) line.slots = std::max(1U, evaluator_->slots() / count);
      if (!split_blocks(*evaluator_, line, count)) return false;
    }
    return share_slots(*evaluator_, candidate);
  }

  // By place, by speed, and by place with the fast and slow of a zone mixed.
  [[nodiscard]] std::vector<std::vector<std::uint32_t>> orders() const {
    std::vector<std::uint32_t> ids(evaluator_->workers());
    std::iota(ids.begin(), ids.end(), 0U);
    const Evaluator& e = *evaluator_;
    auto by_place = ids;
    std::ranges::stable_sort(by_place, {},
                             [&](std::uint32_t w) { return std::tuple(e.zone(w), e.host(w), -e.speed(w)); });
    auto by_speed = ids;
    std::ranges::stable_sort(by_speed, {},
                             [&](std::uint32_t w) { return std::tuple(-e.speed(w), e.zone(w), e.host(w)); });
    auto by_zone = ids;
    std::ranges::stable_sort(by_zone, {},
                             [&](std::uint32_t w) { return std::tuple(e.zone(w), -e.speed(w), e.host(w)); });
    std::vector<std::vector<std::uint32_t>> all{by_place};
    for (auto& order : {by_speed, by_zone}) {
      if (std::ranges::find(all, order) == all.end()) all.push_back(order);
    }
    // For a few workers further orders, dealt by a fixed rule, make up for what those three have in common.
    for (std::uint32_t deal = 1; deal <= (small() ? kDeals : 0); ++deal) {
      std::uint64_t state = deal;
      for (std::size_t left = ids.size(); left > 1; --left) {
        state = state * 6364136223846793005ULL + 1442695040888963407ULL;
        std::swap(ids[left - 1], ids[(state >> 33) % left]);
      }
      all.push_back(ids);
    }
    return all;
  }

  // Depths of the pipelines to begin with; workers beyond their sum are spare.
  [[nodiscard]] std::vector<Depths> forms() const {
    if (forced_) return {evaluator_->options().forced_depths};
    std::vector<Depths> all;
    const std::uint32_t workers = evaluator_->workers();
    if (workers <= kAllForms) {
      for (std::uint32_t used = workers; used > 0; --used) {
        Depths prefix;
        add_partitions(used, std::min(used, evaluator_->blocks()), prefix, all);
      }
      return all;
    }
    std::set<std::uint32_t> counts;
    const std::uint32_t most = std::min(workers, evaluator_->slots());
    for (std::uint32_t depth = 1; depth <= std::min(evaluator_->blocks(), kDeepest); ++depth)
      counts.insert(workers / depth);
    for (std::uint32_t count = 1; count <= most; count = count * 3 / 2 + 1) counts.insert(count);
    counts.insert(most);
    for (const std::uint32_t count : counts) {
      if (count == 0 || count > most) continue;
      const std::uint32_t used =
          static_cast<std::uint32_t>(std::min<std::uint64_t>(workers, std::uint64_t{count} * evaluator_->blocks()));
      Depths depths;
      for (std::uint32_t p = 0; p < count; ++p)
        depths.push_back(used * std::uint64_t{p + 1} / count - used * std::uint64_t{p} / count);
      all.push_back(std::move(depths));
    }
    return all;
  }

  // Where no form for all workers fits into memory: pipelines store others' sums and keep their borders' micro-batches,
  // so that fewer or shorter ones may. Those who have most memory are placed first; all others are spare.
  void begin_with_few() {
    const Evaluator& e = *evaluator_;
    std::vector<std::uint32_t> order(e.workers());
    std::iota(order.begin(), order.end(), 0U);
    std::ranges::stable_sort(order, {},
                             [&](std::uint32_t w) { return std::tuple(-e.memory(w), e.zone(w), e.host(w)); });
    const std::uint32_t part = e.workers() > kManyWorkers ? 2 : 8;  // one count to the next, by so much of it
    for (std::uint32_t depth = 1; depth <= std::min(e.blocks(), kDeepest); ++depth) {
      const std::uint32_t most = std::min(e.workers() / depth, e.slots());
      for (std::uint32_t count = 1; count <= most; count += 1 + count / part) {
        begin_with(build(order, Depths(count, depth)));
      }
    }
  }

  static void add_partitions(std::uint32_t left, std::uint32_t most, Depths& prefix, std::vector<Depths>& all) {
    if (left == 0) return all.push_back(prefix);
    for (std::uint32_t depth = std::min(left, most); depth > 0; --depth) {
      prefix.push_back(depth);
      add_partitions(left - depth, depth, prefix, all);
      prefix.pop_back();
    }
  }

  [[nodiscard]] static Candidate build(const std::vector<std::uint32_t>& order, const Depths& depths) {
    Candidate candidate;
    std::size_t at = 0;
    for (const std::uint32_t depth : depths) {
      if (at + depth > order.size()) return {};
      Line line;
      line.workers.assign(order.begin() + static_cast<std::ptrdiff_t>(at),
                          order.begin() + static_cast<std::ptrdiff_t>(at + depth));
      candidate.push_back(std::move(line));
      at += depth;
    }
    return candidate;
  }

  // --- improving -----------------------------------------------------------------------------------------------------

  void improve(Found& found) {
    while (work_left_ > 0 && (move_workers(found) || move_cuts(found) || move_slots(found) || pair_cuts(found))) {
    }
  }

  bool small() const { return evaluator_->workers() <= kAllMoves; }

  // Takes `changed` when it is better; its blocks and slots are as they shall be.
  bool take(Found& found, Candidate&& changed) {
    if (found.score.fits() && evaluator_->compute_seconds(changed) >= found.score.cost_s) return false;
    const Score better = score(changed);
    if (!better.better_than(found.score)) return false;
    found = {std::move(changed), better};
    return true;
  }

  // The same for a grouping: splits anew the lines named.
  bool regroup(Found& found, Candidate&& changed, std::initializer_list<std::size_t> lines) {
    // Copies and shares cost as much as a part of a score.
    work_left_ -= static_cast<std::int64_t>(evaluator_->blocks() + 8 * changed.size());
    std::erase_if(changed, [](const Line& line) { return line.workers.empty(); });
    if (changed.empty() || changed.size() > evaluator_->slots()) return false;
    const auto count = static_cast<std::uint32_t>(changed.size());
    for (const std::size_t at : lines) {
      if (at >= changed.size()) continue;
      if (changed[at].slots == 0) changed[at].slots = std::max(1U, evaluator_->slots() / count);
      if (!split_blocks(*evaluator_, changed[at], count)) return false;
    }
    for (Line& line : changed) {
      if (line.ends.size() != line.workers.size() && !split_blocks(*evaluator_, line, count)) return false;
    }
    if (!share_slots(*evaluator_, changed)) return false;
    if (found.score.fits() && evaluator_->compute_seconds(changed) >= found.score.cost_s) return false;
    if (!small()) return take(found, std::move(changed));
    const Score better = tune_slots(*evaluator_, changed);
    search_.scored += 8;
    const std::uint64_t tables = std::uint64_t{evaluator_->slots()} * evaluator_->slots() / 16;
    work_left_ -= static_cast<std::int64_t>((8 * evaluator_->blocks() + tables) * changed.size());
    if (!better.better_than(found.score)) return false;
    found = {std::move(changed), better};
    return true;
  }

  [[nodiscard]] std::vector<std::uint32_t> spares(const Candidate& candidate) const {
    std::vector<bool> used(evaluator_->workers());
    for (const Line& line : candidate) {
      for (const std::uint32_t worker : line.workers) used[worker] = true;
    }
    std::vector<std::uint32_t> free;
    for (std::uint32_t worker = 0; worker < used.size(); ++worker) {
      if (!used[worker]) free.push_back(worker);
    }
    return free;
  }

  // Lines worth changing: all of a small layout; else the slowest, and others spread over the order of speed.
  [[nodiscard]] std::vector<std::size_t> lines_to_change(const Candidate& candidate) const {
    std::vector<std::size_t> lines(candidate.size());
    std::iota(lines.begin(), lines.end(), std::size_t{0});
    if (small()) return lines;
    std::ranges::stable_sort(lines, std::greater<>(),
                             [&](std::size_t p) { return evaluator_->line_seconds(candidate[p]); });
    if (lines.size() <= kPartners) return lines;
    std::vector<std::size_t> chosen;
    for (std::size_t i = 0; i < kPartners; ++i) chosen.push_back(lines[i * (lines.size() - 1) / (kPartners - 1)]);
    return chosen;
  }

  bool move_workers(Found& found) {
    const std::vector<std::size_t> lines = lines_to_change(found.candidate);
    const std::size_t first_count = small() ? lines.size() : 1;
    for (std::size_t i = 0; i < first_count; ++i) {
      if (change_line(found, lines[i])) return true;
      for (std::size_t j = 0; j < lines.size(); ++j) {
        if (i == j || work_left_ <= 0) continue;
        if (swap_between(found, lines[i], lines[j])) return true;
        if (!forced_ && join_lines(found, lines[i], lines[j])) return true;
        if (!forced_ && (relocate(found, lines[i], lines[j]) || (!small() && relocate(found, lines[j], lines[i]))))
          return true;
      }
    }
    return false;
  }

  // Inside one line, and between it and the spares.
  bool change_line(Found& found, std::size_t p) {
    const std::size_t depth = found.candidate[p].workers.size();
    for (std::size_t a = 0; work_left_ > 0 && a < depth; ++a) {
      for (std::size_t b = a + 1; work_left_ > 0 && b < depth; ++b) {
        Candidate changed = found.candidate;
        std::swap(changed[p].workers[a], changed[p].workers[b]);
        if (regroup(found, std::move(changed), {p})) return true;
      }
    }
    auto free = spares(found.candidate);
    if (!small() && free.size() > kPartners) free.resize(kPartners);
    for (std::size_t a = 0; work_left_ > 0 && a < depth; ++a) {
      for (const std::uint32_t worker : free) {
        Candidate changed = found.candidate;
        changed[p].workers[a] = worker;
        if (regroup(found, std::move(changed), {p})) return true;
      }
    }
    if (forced_) return false;
    for (std::size_t a = 0; work_left_ > 0 && a <= depth; ++a) {
      for (const std::uint32_t worker : free) {
        Candidate changed = found.candidate;
        changed[p].workers.insert(changed[p].workers.begin() + static_cast<std::ptrdiff_t>(a), worker);
        if (regroup(found, std::move(changed), {p})) return true;
      }
    }
    Candidate without = found.candidate;
    without.erase(without.begin() + static_cast<std::ptrdiff_t>(p));
    if (!without.empty() && regroup(found, std::move(without), {})) return true;
    return leave_line(found, p);
  }

  // A worker becomes spare, or a pipeline of its own; or the line is cut in two.
  bool leave_line(Found& found, std::size_t p) {
    const std::size_t depth = found.candidate[p].workers.size();
    for (std::size_t a = 0; work_left_ > 0 && a < depth; ++a) {
      Candidate changed = found.candidate;
      const std::uint32_t worker = changed[p].workers[a];
      changed[p].workers.erase(changed[p].workers.begin() + static_cast<std::ptrdiff_t>(a));
      if (depth == 1) {
        if (changed.size() > 1 && regroup(found, std::move(changed), {})) return true;
        continue;
      }
      Candidate alone = changed;
      if (regroup(found, std::move(changed), {p})) return true;
      alone.push_back(Line{.workers = {worker}});
      if (regroup(found, std::move(alone), {p, found.candidate.size()})) return true;
    }
    for (std::size_t a = 2; work_left_ > 0 && a + 1 < depth; ++a) {
      Candidate changed = found.candidate;
      Line& line = changed[p];
      Line rest;
      rest.workers.assign(line.workers.begin() + static_cast<std::ptrdiff_t>(a), line.workers.end());
      line.workers.resize(a);
      changed.push_back(std::move(rest));
      if (regroup(found, std::move(changed), {p, found.candidate.size()})) return true;
    }
    return false;
  }

  // Two pipelines become one, or all workers of one become spare.
  bool join_lines(Found& found, std::size_t p, std::size_t q) {
    Candidate changed = found.candidate;
    auto& to = changed[p].workers;
    auto& from = changed[q].workers;
    to.insert(to.end(), from.begin(), from.end());
    from.clear();
    return regroup(found, std::move(changed), {p < q ? p : p - 1});
  }

  bool swap_between(Found& found, std::size_t p, std::size_t q) {
    if (small() && q < p) return false;
    for (std::size_t a = 0; work_left_ > 0 && a < found.candidate[p].workers.size(); ++a) {
      for (std::size_t b = 0; work_left_ > 0 && b < found.candidate[q].workers.size(); ++b) {
        if (alike(found.candidate[p].workers[a], found.candidate[q].workers[b])) continue;
        Candidate changed = found.candidate;
        std::swap(changed[p].workers[a], changed[q].workers[b]);
        if (regroup(found, std::move(changed), {p, q})) return true;
      }
    }
    return false;
  }

  [[nodiscard]] bool alike(std::uint32_t a, std::uint32_t b) const {
    return !small() && evaluator_->host(a) == evaluator_->host(b) && evaluator_->speed(a) == evaluator_->speed(b) &&
           evaluator_->memory(a) == evaluator_->memory(b);
  }

  bool relocate(Found& found, std::size_t p, std::size_t q) {
    for (std::size_t a = 0; work_left_ > 0 && a < found.candidate[p].workers.size(); ++a) {
      for (std::size_t b = 0; work_left_ > 0 && b <= found.candidate[q].workers.size(); ++b) {
        Candidate changed = found.candidate;
        const std::uint32_t worker = changed[p].workers[a];
        changed[p].workers.erase(changed[p].workers.begin() + static_cast<std::ptrdiff_t>(a));
        changed[q].workers.insert(changed[q].workers.begin() + static_cast<std::ptrdiff_t>(b), worker);
        // An emptied line goes, and those after it move up.
        const std::size_t at = changed[p].workers.empty() && p < q ? q - 1 : q;
        const std::size_t other = changed[p].workers.empty() ? at : p;
        if (regroup(found, std::move(changed), {other, at})) return true;
      }
    }
    return false;
  }

  bool move_cuts(Found& found) {
    for (const std::size_t p : lines_to_change(found.candidate)) {
      if (small() && line_splits(found.candidate[p]) <= kAllSplits) {
        Candidate changed = found.candidate;
        if (try_splits(found, changed, p, 0)) return true;
        continue;
      }
      for (std::size_t s = 0; s + 1 < found.candidate[p].workers.size(); ++s) {
        for (const int by : {-1, 1}) {
          if (work_left_ <= 0) return false;
          Candidate changed = found.candidate;
          Line& line = changed[p];
          line.ends[s] += static_cast<std::uint32_t>(by);
          if (line.ends[s] <= (s == 0 ? 0 : line.ends[s - 1]) || line.ends[s] >= line.ends[s + 1]) continue;
          evaluator_->time_line(line);
          if (take(found, std::move(changed))) return true;
        }
      }
    }
    return false;
  }

  [[nodiscard]] double line_splits(const Line& line) const {
    double count = 1;
    for (std::size_t i = 1; i < line.workers.size(); ++i) count = count * double(evaluator_->blocks() - i) / double(i);
    return count;
  }

  // All splits of two lines at once: owners whose blocks begin alike exchange less than others.
  bool pair_cuts(Found& found) {
    if (!small()) return false;
    for (std::size_t p = 0; p < found.candidate.size(); ++p) {
      for (std::size_t q = p + 1; q < found.candidate.size(); ++q) {
        const double splits = line_splits(found.candidate[p]) * line_splits(found.candidate[q]);
        Candidate changed = found.candidate;
        if (splits <= kAllPairs && try_splits(found, changed, p, 0, q)) return true;
      }
    }
    return false;
  }

  bool try_splits(Found& found, Candidate& changed, std::size_t p, std::size_t stage,
                  std::optional<std::size_t> then = std::nullopt) {
    Line& line = changed[p];
    if (stage + 1 == line.workers.size()) {
      evaluator_->time_line(line);
      if (work_left_ <= 0 || (found.score.fits() && evaluator_->line_seconds(line) >= found.score.cost_s)) return false;
      if (then) return try_splits(found, changed, *then, 0);
      return take(found, Candidate(changed));
    }
    const auto last = static_cast<std::uint32_t>(evaluator_->blocks() - (line.workers.size() - 1 - stage));
    for (std::uint32_t end = (stage == 0 ? 0 : line.ends[stage - 1]) + 1; end <= last; ++end) {
      line.ends[stage] = end;
      if (try_splits(found, changed, p, stage + 1, then)) return true;
    }
    return false;
  }

  // Slots from one pipeline to another, pipelines in another order, and shares tuned anew.
  bool move_slots(Found& found) {
    if (!small()) {
      Candidate changed = found.candidate;
      const Score tuned = tune_slots(*evaluator_, changed);
      if (!tuned.better_than(found.score)) return false;
      found = {std::move(changed), tuned};
      return true;
    }
    const std::size_t count = found.candidate.size();
    for (std::size_t p = 0; p < count; ++p) {
      for (std::size_t q = 0; q < count; ++q) {
        if (p == q) continue;
        for (std::uint32_t by = 1; by < found.candidate[p].slots; by += 1 + by / 16) {
          Candidate changed = found.candidate;
          changed[p].slots -= by;
          changed[q].slots += by;
          if (take(found, std::move(changed))) return true;
        }
        if (q < p) continue;
        Candidate changed = found.candidate;
        std::swap(changed[p], changed[q]);
        Candidate tuned = changed;
        if (take(found, std::move(changed))) return true;
        if (regroup(found, std::move(tuned), {})) return true;
      }
    }
    return false;
  }

  Evaluator* evaluator_;
  bool forced_;
  Search search_;
  std::vector<Found> starts_;
  std::int64_t work_left_ = 0;
};

}  // namespace

Search search_locally(Evaluator& evaluator, const std::vector<Candidate>& starts) {
  return LocalSearch(evaluator).run(starts);
}

}  // namespace planaria::planner
