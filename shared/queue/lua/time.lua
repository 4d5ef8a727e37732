-- Part of every script: the time of Redis, and how times are written.
local time = redis.call('TIME')
local NOW = time[1] * 1000 + time[2] / 1000 -- ms; the fraction keeps the order of jobs within one ms

local function ms(value)
  return string.format('%.0f', math.floor(value))
end
