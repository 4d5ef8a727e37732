-- Return one page of the jobs in some statuses, the newest first, without results.
-- ARGV: most jobs; created_ms and id of the last job of the page before, or '' and ''; their owner or '' for the jobs
-- of all owners; then the statuses
-- Returns {jobs as {id, record}, created_ms and id of the last job looked at or false at the end}.
local limit, before_id = tonumber(ARGV[1]), ARGV[3]
local before_ms = math.min(tonumber(ARGV[2]) or LEASE_SCORE_BASE, LEASE_SCORE_BASE - 1)
local index = index_of(ARGV[4])
local found, jobs = {}, {}

-- Adds the jobs of one status that come after the page before, one more than fit on this page.
local function find_jobs(status)
  local low, high, offset, num = index_score(status, 0), index_score(status, before_ms), 0, 0
  repeat
    local entries = redis.call('ZREVRANGEBYSCORE', index, high, low, 'WITHSCORES',
      'LIMIT', offset, limit + 1)
    for i = 1, #entries, 2 do
      local id, created_ms = entries[i], entries[i + 1] - low
      if created_ms < before_ms or before_id == '' or id < before_id then
        found[#found + 1], num = {id = id, created_ms = created_ms}, num + 1
      end
    end
    offset = offset + limit + 1
  until num > limit or #entries < 2 * (limit + 1)
end

for i = 5, #ARGV do
  find_jobs(ARGV[i])
end
table.sort(found, function(one, other)
  if one.created_ms ~= other.created_ms then
    return one.created_ms > other.created_ms
  end
  return one.id > other.id
end)
for i = 1, math.min(limit, #found) do
  local record = read_record(found[i].id, true)
  if record then
    jobs[#jobs + 1] = {found[i].id, record}
  else
    redis.call('ZREM', index, found[i].id) -- its result has expired
  end
end
local last = #found > limit and found[limit]
return {jobs, last and {ms(last.created_ms), last.id}}
