"""`limits.decide` in Lua, with the reading and writing round it: Redis runs it as one step.

A contract test holds it to the Python function. Numbers in Lua are floating-point: whole ones are exact up to 2**53.
"""

from __future__ import annotations

from lightship.gateway.tenants.limits import ADVANCE_DIVISOR, LEASE_S, SOON_S, UNLIMITED, WINDOW_S

# Seconds. Redis forgets what nobody looks at: positions after two hours, days and months when they are long over.
_POSITIONS_KEPT_S = 2 * 3600
_DAY_KEPT_S = 40 * 86_400
_MONTH_KEPT_S = 400 * 86_400
# Seconds until a holder's position is removed, as in `limits.is_forgettable`.
_FORGOTTEN_AFTER_S = 3600

# KEYS: positions, spent in the day, spent in the month. ARGV: the exchange, the time or "" for the server's own.
# Arrays are `Exchange`, `Position`, `Limits`, `Amounts` and `SlotUse` in the order of their fields.
SCRIPT = f"""
local exchange = cmsgpack.unpack(ARGV[1])
local holder, limits, calendar, sequence = exchange[1], exchange[3], exchange[4], exchange[5]
local slots, held, spent_tokens, spent_nanousd = exchange[6], exchange[7], exchange[8], exchange[9]
local need, wanted = exchange[12], exchange[13]
local now = tonumber(ARGV[2])
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) + tonumber(time[2]) / 1e6
end

local own
local all_slots = {{}}
local held_tokens, held_nanousd, held_concurrent = held[3], held[4], held[5]
for _, slot in ipairs(slots) do
  if slot[1] < {WINDOW_S} then all_slots[#all_slots + 1] = slot end
end
local rows = redis.call('HGETALL', KEYS[1])
for i = 1, #rows, 2 do
  local position = cmsgpack.unpack(rows[i + 1])
  local elapsed = now - position[1]
  if elapsed < 0 then
    elapsed, position[1] = 0, now
    redis.call('HSET', KEYS[1], rows[i], cmsgpack.pack(position))
  end
  if elapsed > {_FORGOTTEN_AFTER_S} then
    redis.call('HDEL', KEYS[1], rows[i])
  elseif rows[i] == holder then
    own = position
  else
    for _, slot in ipairs(position[3]) do
      if slot[1] + elapsed < {WINDOW_S} then
        all_slots[#all_slots + 1] = {{slot[1] + elapsed, slot[2], slot[3]}}
      end
    end
    if elapsed < {LEASE_S} then
      held_tokens = held_tokens + position[4][3]
      held_nanousd = held_nanousd + position[4][4]
      held_concurrent = held_concurrent + position[4][5]
    end
  end
end
if own and own[2] >= sequence then return redis.error_reply('STALE') end

local new_tokens = spent_tokens - (own and own[5] or exchange[10])
local new_nanousd = spent_nanousd - (own and own[6] or exchange[11])
local function spent_in(key)
  local spent = redis.call('HMGET', key, 'tokens', 'nanousd')
  return (tonumber(spent[1]) or 0) + new_tokens, (tonumber(spent[2]) or 0) + new_nanousd
end
local day_tokens, day_nanousd = spent_in(KEYS[2])
local month_tokens, month_nanousd = spent_in(KEYS[3])
local slot_requests, slot_tokens = 0, 0
for _, slot in ipairs(all_slots) do
  slot_requests, slot_tokens = slot_requests + slot[2], slot_tokens + slot[3]
end

-- limit, resource, left, left without what is held, seconds until it begins anew
local rooms = {{}}
local function room(kind, resource, limit, used, holds, resets)
  if limit then
    rooms[#rooms + 1] = {{kind, resource, limit - used - holds, limit - used, resets}}
  end
end
room('concurrent', 5, limits[3], 0, held_concurrent)
room('requests', 1, limits[1], slot_requests, 0)
room('tokens', 2, limits[2], slot_tokens, 0)
room('day_tokens', 3, limits[4], day_tokens, held_tokens, calendar[3])
room('day_usd', 4, limits[6], day_nanousd, held_nanousd, calendar[3])
room('month_tokens', 3, limits[5], month_tokens, held_tokens, calendar[4])
room('month_usd', 4, limits[7], month_nanousd, held_nanousd, calendar[4])

local left = {{{UNLIMITED}, {UNLIMITED}, {UNLIMITED}, {UNLIMITED}, {UNLIMITED}}}
local short
for _, r in ipairs(rooms) do
  left[r[2]] = math.min(left[r[2]], r[3])
  if not short and need[r[2]] > math.max(0, r[3]) then short = r end
end

local kind, wait, is_exhausted = '', 0, false
if short then
  kind, wait = short[1], {SOON_S}
  local field = short[2] + 1
  if short[5] then
    is_exhausted = need[short[2]] > short[4]
    if is_exhausted then wait = short[5] end
  elseif kind ~= 'concurrent' then
    wait = {WINDOW_S}
    local freed = short[3]
    table.sort(all_slots, function(a, b) return a[1] > b[1] end)
    for _, slot in ipairs(all_slots) do
      freed = freed + slot[field]
      if freed >= need[short[2]] then
        wait = {WINDOW_S} - slot[1]
        break
      end
    end
  end
end

local granted, extra = {{0, 0, 0, 0, 0}}, {{0, 0, 0, 0, 0}}
if not short then
  granted = need
  for i = 1, 5 do
    left[i] = left[i] - need[i]
    extra[i] = math.min(wanted[i], math.floor(math.max(0, left[i]) / {ADVANCE_DIVISOR}))
    left[i] = left[i] - extra[i]
  end
end
local requests, tokens = granted[1] + extra[1], granted[2] + extra[2]
if requests > 0 or tokens > 0 then
  local current = slots[#slots]
  slots[#slots] = {{current[1], current[2] + requests, current[3] + tokens}}
end
for i = 3, 5 do held[i] = held[i] + granted[i] + extra[i] end
held[1], held[2] = 0, 0
redis.call('HSET', KEYS[1], holder, cmsgpack.pack({{now, sequence, slots, held, spent_tokens, spent_nanousd}}))
redis.call('EXPIRE', KEYS[1], {_POSITIONS_KEPT_S})
if new_tokens ~= 0 or new_nanousd ~= 0 then
  for i, kept in ipairs({{{_DAY_KEPT_S}, {_MONTH_KEPT_S}}}) do
    redis.call('HINCRBY', KEYS[i + 1], 'tokens', string.format('%.0f', new_tokens))
    redis.call('HINCRBY', KEYS[i + 1], 'nanousd', string.format('%.0f', new_nanousd))
    redis.call('EXPIRE', KEYS[i + 1], kept)
  end
end
return cmsgpack.pack({{kind, wait, is_exhausted, extra, left}})
"""
