-- Replace the set of adapters that clients loaded at run time, unless it has changed since it was read.
-- ARGV: the set that was read, in msgpack, or '' for none; the next set
-- Returns 1, also when it is sent twice, or 0.
local earlier, later = ARGV[1], ARGV[2]

local current = redis.call('GET', ADAPTERS) or ''
if current == later then
  return 1
elseif current ~= earlier then
  return 0
end
redis.call('SET', ADAPTERS, later)
return 1
