-- What proxies tell each other: a log of what was done, the levers that are pulled by it, and how far each proxy has read.
--
-- KEYS  head, log, levers, read
-- ARGV  what to call the log if it begins now, who, what he tells of himself ('': he leaves), what he wants ('l': the levers,
--       'p': the proxies), proxies that are known to be gone and how many, then for each order: kind ('log', 'pull', 'undo',
--       'over'), a lever's id, and the entry's text
-- reply what the log is called, its last entry's number, the levers or nothing (each with its number, id and text), the proxies or
--       nothing (each with its id, the milliseconds since it was heard, and what it told)

local KEPT, ENTRIES, LEVERS, LEVER, PROXIES, SILENT, TOLD = 2592000, 8192, 256, 4096, 256, 30, 4096

local now = redis.call('TIME')
now = tonumber(now[1]) + tonumber(now[2]) / 1e6
local HEAD, LOG, PULLED, READ = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local name, me, told, wants = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

-- What somebody else wrote there is not believed.
local function only(key, kind)
  local is = redis.call('TYPE', key).ok
  if is ~= kind and is ~= 'none' then redis.call('UNLINK', key) end
end
only(HEAD, 'hash')
only(LOG, 'stream')
only(PULLED, 'hash')
only(READ, 'hash')

-- Entries are numbered without a gap; the last one's number, and how many levers are pulled, stands beside. Where that is not so,
-- something is lost, and the log begins anew.
local function field(key, name, most)
  if redis.call('HSTRLEN', key, name) > most then return nil end
  return redis.call('HGET', key, name) or nil
end
local log, last = field(HEAD, 'log', 16), tonumber(field(HEAD, 'last', 16) or '')
local function is_whole()
  if not log or #log ~= 16 or not last or last < 0 or last ~= math.floor(last) then return false end
  if (tonumber(field(HEAD, 'pulled', 16) or '') or 0) ~= redis.call('HLEN', PULLED) then return false end
  local newest = redis.call('XREVRANGE', LOG, '+', '-', 'COUNT', 1)[1]
  if last == 0 then return not newest end
  return newest and newest[1] == string.format('%d-0', last)
end
if not is_whole() then
  redis.call('UNLINK', HEAD, LOG, PULLED)
  log, last = name, 0
  redis.call('HSET', HEAD, 'log', log, 'last', 0)
end

local gone = tonumber(ARGV[5])
for i = 6, 5 + gone do redis.call('HDEL', READ, ARGV[i]) end
for i = 6 + gone, #ARGV, 3 do
  local kind, lever, text = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if kind ~= 'over' then
    last = last + 1
    redis.call('XADD', LOG, 'MAXLEN', '~', ENTRIES, string.format('%d-0', last), 'by', me, 'is', text)
    redis.call('HSET', HEAD, 'last', string.format('%d', last))
  end
  if kind == 'pull' then
    if redis.call('HLEN', PULLED) < LEVERS or redis.call('HEXISTS', PULLED, lever) == 1 then
      redis.call('HSET', PULLED, lever, string.format('%d %s', last, text))
    end
  elseif kind ~= 'log' then
    redis.call('HDEL', PULLED, lever)
  end
end

if told == '' then
  redis.call('HDEL', READ, me)
else
  redis.call('HSET', READ, me, string.format('%.3f %s', now, told))
end
for _, key in ipairs({ HEAD, LOG, PULLED }) do redis.call('EXPIRE', key, KEPT) end
redis.call('EXPIRE', READ, 2 * SILENT)

-- The fields of a hash that are as long as they may be, each with its number and the rest of it.
local function all(key, most, longest, keeps)
  local found = {}
  if redis.call('HLEN', key) > 2 * most then
    redis.call('UNLINK', key)
    return found
  end
  for _, name in ipairs(redis.call('HKEYS', key)) do
    local text = #name == 16 and field(key, name, longest + 32)
    local number, rest
    if text then number, rest = text:match('^(%d+%.?%d*) (.*)$') end
    number = tonumber(number or '')
    if number and keeps(number) then
      found[#found + 1] = { name, number, rest }
    else
      redis.call('HDEL', key, name)
    end
  end
  return found
end

local levers, proxies = false, false
if wants:find('l') then
  levers = {}
  for _, one in ipairs(all(PULLED, LEVERS, LEVER, function() return true end)) do
    for _, part in ipairs({ string.format('%d', one[2]), one[1], one[3] }) do levers[#levers + 1] = part end
  end
end
if wants:find('p') then
  proxies = {}
  local heard = function(at) return at > now - SILENT and at < now + SILENT end
  for nth, one in ipairs(all(READ, PROXIES, TOLD, heard)) do
    if nth > PROXIES then break end
    local since = string.format('%d', math.max(now - one[2], 0) * 1000)
    for _, part in ipairs({ one[1], since, one[3] }) do proxies[#proxies + 1] = part end
  end
end
redis.call('HSET', HEAD, 'pulled', redis.call('HLEN', PULLED))
return { log, string.format('%d', last), levers, proxies }
