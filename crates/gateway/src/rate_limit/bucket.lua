-- Debits a request's cost from a caller's two buckets, or from neither. Same arithmetic as bucket.rs. Redis runs one
-- script at a time and provides one clock for all servers.
-- KEYS[1]: the caller. ARGV: requests and tokens per minute (0: not limited), the cost in requests and tokens, and 1 to
-- debit the cost even if the buckets hold less. Returns 1 if the cost was debited, else 0, and both levels.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local stored = redis.call('HMGET', KEYS[1], 'at', 'requests', 'tokens')
-- A clock that was set back refills nothing.
local minutes = math.max(0, now - (tonumber(stored[1]) or now)) / 60000000
local limits = {tonumber(ARGV[1]), tonumber(ARGV[2])}
local costs = {tonumber(ARGV[3]), tonumber(ARGV[4])}
local levels, allowed = {}, 1
for i = 1, 2 do
  levels[i] = math.min(limits[i], (tonumber(stored[i + 1]) or limits[i]) + limits[i] * minutes)
  -- Rounding tolerance, see EPSILON in bucket.rs.
  if ARGV[5] ~= '1' and levels[i] + 0.000001 < math.min(limits[i], costs[i]) then allowed = 0 end
end
if allowed == 1 then
  local until_full = 0
  for i = 1, 2 do
    levels[i] = math.min(limits[i], levels[i] - costs[i])
    if limits[i] > 0 then until_full = math.max(until_full, 60000 * (limits[i] - levels[i]) / limits[i]) end
  end
  -- Without a format, Lua writes a number with 14 digits.
  redis.call('HSET', KEYS[1], 'at', string.format('%.0f', now),
    'requests', string.format('%.6f', levels[1]), 'tokens', string.format('%.6f', levels[2]))
  -- A missing key is a full bucket.
  redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.min(until_full, 86400000) + 1000))
end
return {allowed, string.format('%.6f', levels[1]), string.format('%.6f', levels[2])}
