-- Takes a request's cost from a caller's two buckets, or from neither: bucket.rs in Redis, which runs a script at a
-- time and has one clock for all servers.
-- KEYS[1]: the caller. ARGV: requests and tokens a minute (0: not limited), the request's cost in both, and 1 to take
-- it whatever there is. Returns whether it was taken, and both levels.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local held = redis.call('HMGET', KEYS[1], 'at', 'requests', 'tokens')
-- A clock that was set back fills nothing.
local minutes = math.max(0, now - (tonumber(held[1]) or now)) / 60000000
local limits = {tonumber(ARGV[1]), tonumber(ARGV[2])}
local costs = {tonumber(ARGV[3]), tonumber(ARGV[4])}
local levels, taken = {}, 1
for i = 1, 2 do
  levels[i] = math.min(limits[i], (tonumber(held[i + 1]) or limits[i]) + limits[i] * minutes)
  -- Whoever waited as long as it was told shall not fail by a rounding.
  if ARGV[5] ~= '1' and levels[i] + 0.000001 < math.min(limits[i], costs[i]) then taken = 0 end
end
if taken == 1 then
  local rest = 0
  for i = 1, 2 do
    levels[i] = math.min(limits[i], levels[i] - costs[i])
    if limits[i] > 0 then rest = math.max(rest, 60000 * (limits[i] - levels[i]) / limits[i]) end
  end
  -- Lua would write a number with 14 digits.
  redis.call('HSET', KEYS[1], 'at', string.format('%.0f', now),
    'requests', string.format('%.6f', levels[1]), 'tokens', string.format('%.6f', levels[2]))
  -- A full bucket is as good as none.
  redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.min(rest, 86400000) + 1000))
end
return {taken, string.format('%.6f', levels[1]), string.format('%.6f', levels[2])}
